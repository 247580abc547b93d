"""`bidstream-svc serve` without its native kernel, as where that was not built.

It runs as a script, not with `python -m`, because the package around it imports the kernel.
"""

import runpy
import sys

if __name__ == "__main__":
    assert "bidstream_svc" not in sys.modules
    sys.modules["bidstream_svc.core.kernel._native"] = None  # type: ignore[assignment]  # so that its import fails
    sys.argv[1:] = ["serve"]
    runpy.run_module("bidstream_svc", run_name="__main__")
