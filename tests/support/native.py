"""Whether the native kernel has to be there: not without cargo, unless BUILD_KERNEL says so."""

import os
import shutil

IS_NATIVE_EXPECTED = {"0": False, "1": True}.get(
    os.environ.get("BUILD_KERNEL", ""), shutil.which(os.environ.get("CARGO", "cargo")) is not None
)
