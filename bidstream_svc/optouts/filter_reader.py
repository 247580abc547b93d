"""The filter of an opt-out store, as a process that looks ids up has it."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.optouts.control_words import NO_GENERATION, ControlWords
from bidstream_svc.optouts.filter_file import FilterFile
from bidstream_svc.optouts.optout_log import get_logger

if IS_NATIVE or TYPE_CHECKING:
    from bidstream_svc.core.kernel import OptOutFilter

_RETRY_S = 1.0
_log = get_logger(__name__)


class FilterReader:
    """The filter in use, mapped. Thread-safe. Only where IS_NATIVE.

    Args:
        directory: the store.
        store_id: its id.
        control: its control words.
        read_last_transaction: returns the id of the store's last committed write transaction.
        withholds: whether kernels with `native` leave all ids to Python while the store is not synced.

    Attributes:
        native: the filter, for kernels.
    """

    def __init__(
        self,
        directory: Path,
        store_id: bytes,
        control: ControlWords,
        read_last_transaction: Callable[[], int],
        *,
        withholds: bool,
    ) -> None:
        self.native = OptOutFilter(control.words, withholds=withholds)
        self._directory, self._store_id, self._control = directory, store_id, control
        self._read_last_transaction = read_last_transaction
        self._lock = Lock()
        self._file: FilterFile | None = None
        self._generation = NO_GENERATION  # of the file
        self._next_try_s = 0.0
        self._follow()

    def may_contain(self, scope: IdentityScope, raw_id: bytes) -> bool:
        """Return False if an id is certainly not in the store."""
        if not self.native.may_contain(scope, raw_id):
            return False
        generation = self._control.generation
        if generation == self._generation or generation == NO_GENERATION:  # noqa: PLR1714 - a set takes longer
            return True
        self._follow()
        return self.native.may_contain(scope, raw_id)

    def close(self) -> None:
        """Unmap the filter; from now on no id is certainly absent."""
        with self._lock:
            self._next_try_s = float("inf")
            self.native.unmap()
            self._generation = NO_GENERATION
            if self._file is not None:
                self._file.close()
                self._file = None

    def _follow(self) -> None:
        """Map the filter that has come into use. One that cannot be used is tried again a second later."""
        generation = self._control.generation
        if generation == NO_GENERATION or not self._lock.acquire(blocking=False):
            return
        try:
            if self._generation == generation or time.monotonic() < self._next_try_s:
                return
            self._next_try_s = time.monotonic() + _RETRY_S
            self._map(generation)
            self._next_try_s = 0.0
        except (OSError, OptOutStoreError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            _log.warning("opt-out filter not usable", generation=generation, reason=reason)
        finally:
            self._lock.release()

    def _map(self, generation: int) -> None:
        last_transaction = self._read_last_transaction()  # first: what was noted later does not matter
        file = FilterFile.open(self._directory, generation, self._store_id)
        if not file.is_complete(last_transaction):
            file.close()
            raise OptOutStoreError("it may lack ids")
        self.native.map(file.words, file.identity.key, generation)
        self._generation = generation
        if self._file is not None:
            self._file.close()
        self._file = file
