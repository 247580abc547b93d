"""Tests of compiled code are collected where there is some: by `make test-compiled` and `make sanitize`.

Those of the kernel are missing only where it cannot be built: without cargo, or with BUILD_KERNEL=0.
"""

import os
import shutil

collect_ignore = [] if os.environ.get("COMPILE_HOT_PATH") == "1" else ["test_native.py"]
if os.environ.get("BUILD_KERNEL") == "0" or shutil.which(os.environ.get("CARGO", "cargo")) is None:
    collect_ignore.append("test_kernel.py")
