"""Giving memory back to the system, which glibc's allocator does not do by itself in two cases."""

import ctypes
import gc
from contextlib import suppress

# From <malloc.h>.
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 128 * 1024


def fix_mmap_threshold() -> None:
    """Let every large block be mapped by itself, so that freeing it gives it back at once.

    By default glibc raises the threshold, up to 32 MiB, when such a block is freed. Later blocks then come from the
    heap, and one small block behind them keeps all of them.
    """
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def trim() -> None:
    """Give back all free pages of the heap, also those between blocks in use.

    It takes milliseconds for each 10 MiB, during which other threads cannot allocate memory.
    """
    # Requests that aiohttp cancelled are in cycles of references, with what they had received. The objects of the start
    # are frozen, so this takes about a microsecond for each open connection.
    gc.collect()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
