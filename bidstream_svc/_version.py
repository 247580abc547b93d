"""The one place that holds the version, and tells how this installation was built."""

from importlib.util import find_spec

__version__ = "0.1.0"


def is_compiled() -> bool:
    """Whether the hot path runs as compiled code rather than in the interpreter; see setup.py."""
    spec = find_spec("bidstream_svc.core.decrypt")
    return spec is not None and not str(spec.origin).endswith(".py")
