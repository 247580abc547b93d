"""The words by which the processes of a host agree about an opt-out store.

They are in the store's file `control`, which each process maps: 64-bit integers in the processor's byte order, at the
places below. Each is read and written as a whole. The file keeps its size and its inode as long as the store exists.
"""

import os
from mmap import mmap
from pathlib import Path

from bidstream_svc.core.errors import OptOutStoreError

CONTROL_FILE = "control"
CONTROL_BYTES = 4096
NO_GENERATION = 0
# "optouts", and the version of this layout as the most significant byte.
_MAGIC = int.from_bytes(b"optouts\x01", "little")
# The native filter has these places in `core/kernel/src/optouts.rs`, too.
_MAGIC_WORD, _GENERATION, _GROWING, _FRESH_UNTIL_MS, _NEWEST = range(5)


class ControlWords:
    """The control words of a store. Generations are changed only within a write transaction of the store.

    Args:
        directory: the store.
        create: whether the file is created; only within a write transaction.

    Raises:
        OptOutStoreError: the file is damaged or of another version.
        OSError: it is missing, cannot be read or created.
    """

    def __init__(self, directory: Path, *, create: bool) -> None:
        descriptor = os.open(directory / CONTROL_FILE, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        try:
            # A hole in a file that is mapped ends the process when the disk is full.
            if create and os.fstat(descriptor).st_size == 0:
                os.posix_fallocate(descriptor, 0, CONTROL_BYTES)
            if os.fstat(descriptor).st_size != CONTROL_BYTES:
                raise OptOutStoreError("control has another size")
            self.words = memoryview(mmap(descriptor, CONTROL_BYTES)).cast("q")
        finally:
            os.close(descriptor)
        if create and not any(self.words):
            self.words[_MAGIC_WORD] = _MAGIC
        if self.words[_MAGIC_WORD] != _MAGIC:
            raise OptOutStoreError("control is damaged, or of another version")

    @property
    def generation(self) -> int:
        """The generation of the filter in use; NO_GENERATION while LMDB answers alone."""
        return self.words[_GENERATION]

    @generation.setter
    def generation(self, generation: int) -> None:
        self.words[_GENERATION] = generation

    @property
    def growing(self) -> int:
        """The generation of the filter that is being built; NO_GENERATION if there is none."""
        return self.words[_GROWING]

    @growing.setter
    def growing(self, generation: int) -> None:
        self.words[_GROWING] = generation

    @property
    def newest(self) -> int:
        """The newest generation there ever was. None is used again, because a process may have its file mapped."""
        return self.words[_NEWEST]

    @newest.setter
    def newest(self, generation: int) -> None:
        self.words[_NEWEST] = generation

    @property
    def fresh_until_ms(self) -> int:
        """Until when the store counts as synced with the stream, Unix ms; 0 before it was."""
        return self.words[_FRESH_UNTIL_MS]

    @fresh_until_ms.setter
    def fresh_until_ms(self, until_ms: int) -> None:
        self.words[_FRESH_UNTIL_MS] = until_ms
