"""The opt-out store for a program of any kind, which may have several clients and may fork.

LMDB must not be open twice in a process, nor be used across a fork. So a process has one reader of each store, opened
when the process first needs it.
"""

import os
import threading
from pathlib import Path
from weakref import WeakValueDictionary

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import FailureReason
from bidstream_svc.optouts.optout_environment import open_environment
from bidstream_svc.optouts.optout_reader import OptOutReader


class OptOuts:
    """An opt-out store, for look-ups in this process and in those that it forks. Thread-safe.

    It stays open as long as an object for it exists. An opt-out counts as soon as it is in the store.

    Args:
        directory: the store, which must exist.

    Raises:
        OptOutStoreError: it cannot be opened.
    """

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory).resolve()
        self._pid = os.getpid()
        self._reader = _readers.open(self._directory)

    def __repr__(self) -> str:
        """Show the directory."""
        return f"{type(self).__name__}({str(self._directory)!r})"

    def check(self, scope: IdentityScope, uid: str, now_ms: int) -> FailureReason | None:
        """Return why a raw uid must not be answered, or None if it may. This is the `check_optout` of `decrypt`."""
        if self._pid != os.getpid():  # this process was forked
            self._reader = _readers.open(self._directory, is_required=False)
            self._pid = os.getpid()
        return self._reader.check(scope, uid, now_ms)


class _Readers:
    """The readers of this process, by directory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakValueDictionary[Path, OptOutReader] = WeakValueDictionary()
        os.register_at_fork(after_in_child=self._start_again)

    def open(self, directory: Path, *, is_required: bool = True) -> OptOutReader:
        """Open a store, unless it is open."""
        with self._lock:
            reader = self._open.get(directory)
            if reader is None:
                reader = self._open[directory] = OptOutReader(directory, is_required=is_required)
            elif is_required and not reader.is_usable:
                open_environment(directory, is_writable=False)  # or tell why that is not possible
            return reader

    def _start_again(self) -> None:
        """Give up what belongs to the parent; other threads of it may hold locks, of the readers as well."""
        self._lock = threading.Lock()
        self._open = WeakValueDictionary()


_readers = _Readers()
