"""A file system that does not answer, as a network mount whose server is gone: FUSE without its daemon."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MNT_DETACH = 2


@contextmanager
def hung_mount(directory: Path) -> Iterator[Path]:
    """Mount it on a directory; skips the test where mounting is not permitted.

    Whatever looks into the directory waits, until the end, and then gets an error.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"needs /dev/fuse: {error.strerror}")
    try:
        options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
        if libc.mount(b"hung", os.fsencode(directory), b"fuse", 0, options):
            pytest.skip(f"needs the right to mount: {os.strerror(ctypes.get_errno())}")
        try:
            yield directory
        finally:
            libc.umount2(os.fsencode(directory), _MNT_DETACH)
    finally:
        os.close(device)
