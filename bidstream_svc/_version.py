"""The version, and whether this installation is compiled."""

from importlib.util import find_spec

__version__ = "0.1.0"


def is_compiled() -> bool:
    """Whether the hot path is compiled; see setup.py."""
    spec = find_spec("bidstream_svc.core.decrypt")
    return spec is not None and not str(spec.origin).endswith(".py")
