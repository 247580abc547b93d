"""Tests of compiled code are collected where there is some: by `make test-compiled` and `make sanitize`."""

import os

collect_ignore = [] if os.environ.get("COMPILE_HOT_PATH") == "1" else ["test_native.py"]
