"""Tests of the kernel are collected where it is expected, so that they fail if it was not built."""

from tests.support.native import IS_NATIVE_EXPECTED

collect_ignore = [] if IS_NATIVE_EXPECTED else ["test_kernel.py", "test_kernel_optouts.py", "test_openrtb_native.py"]
