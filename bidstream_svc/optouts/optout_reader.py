"""Looks up raw uids in an opt-out store that other processes write to."""

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import lmdb

from bidstream_svc.core.errors import OptOutRecordError, OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.core.status import FailureReason
from bidstream_svc.optouts.filter_reader import FilterReader
from bidstream_svc.optouts.optout_environment import Environment, open_environment
from bidstream_svc.optouts.optout_log import get_logger
from bidstream_svc.optouts.optout_records import decode_raw_id, decode_record
from bidstream_svc.optouts.optout_tables import contains, find_record

if TYPE_CHECKING:
    from bidstream_svc.core.kernel import OptOutFilter

_log = get_logger(__name__)

_FILE_CHECK_INTERVAL_S = 1.0
_MAX_ATTEMPTS = 10
_MIN_BACK_OFF_S, _MAX_BACK_OFF_S = 0.5, 30.0


class _Opened(NamedTuple):
    environment: Environment
    filter: FilterReader | None  # None without a kernel


class OptOutReader:
    """An opt-out store, open for look-ups. Thread-safe. Open it in the process that uses it, not before a fork.

    A store that becomes unusable (damaged, removed, replaced) is opened again, with back-off, until that succeeds.

    Args:
        directory: the store.
        withholds: whether no raw uid may be answered while the store is stale.
        is_required: False opens a store that is missing or damaged when it is not any more; until then, no raw uid may
            be answered.

    Raises:
        OptOutStoreError: it cannot be opened, and is required.
    """

    def __init__(self, directory: Path, *, withholds: bool = False, is_required: bool = True) -> None:
        self._directory = directory
        self._withholds = withholds
        self._opening = threading.Lock()
        self._opened = self._open() if is_required else None
        self._check_file_at = time.monotonic() + _FILE_CHECK_INTERVAL_S
        self._open_at = 0.0
        self._back_off_s = _MIN_BACK_OFF_S
        self._is_reported = False  # whether the last line in the log says that the store is unusable
        if not is_required:
            self._reopen()

    @property
    def is_usable(self) -> bool:
        """Whether ids can be looked up. While they cannot, none is answered."""
        return self._opened is not None

    @property
    def was_synced(self) -> bool:
        """Whether the store has held all of the stream at some time, or has no stream. A new one has not."""
        opened = self._opened
        return opened is not None and opened.environment.control.fresh_until_ms > 0

    @property
    def native_filter(self) -> "OptOutFilter | None":
        """What kernels ask first; None without a kernel, and while the store is not usable.

        It holds nothing back any more, and leaves all to Python, once the store has become unusable.
        """
        opened = self._opened
        return None if opened is None or opened.filter is None else opened.filter.native

    def check(self, scope: IdentityScope, uid: str, now_ms: int) -> FailureReason | None:
        """Return why a raw uid must not be answered, or None if it may."""
        try:
            raw_id = decode_raw_id(uid)
        except OptOutRecordError:
            is_in: bool | None = False  # no opt-out can name it
        else:
            is_in = self._look_up(scope, raw_id)
        if is_in:
            return FailureReason.OPTED_OUT
        if is_in is None or self.withholds_at(now_ms):
            return FailureReason.OPTOUTS_NOT_SYNCED
        return None

    def find_times(self, scope: IdentityScope, uid: str) -> tuple[int, int | None] | None:
        """Return when the opt-out of a raw uid arrived, and when the user opted out, Unix s; None if it is not here."""
        opened = self._opened
        if opened is None:
            return None
        try:
            with opened.environment as environment:
                record = find_record(environment, scope, decode_raw_id(uid))
        except (OptOutRecordError, OptOutStoreError, lmdb.Error):
            return None
        optout = None if record is None else decode_record(scope, record)
        return None if optout is None else (optout.arrived_s, optout.entry_s)

    def check_file(self) -> bool:
        """Return whether the store is usable; once a second that is found out, and an unusable one opened again.

        To be called about once a second where kernels use `native_filter`, because they do not ask this.
        """
        opened = self._opened
        if opened is not None and time.monotonic() >= self._check_file_at:
            self._check_file_at = time.monotonic() + _FILE_CHECK_INTERVAL_S
            try:
                with opened.environment as environment:
                    problem = environment.find_problem()
            except OptOutStoreError as error:
                problem = str(error)
            if problem is not None:
                self._give_up(opened, problem)
        return self._opened is not None or self._reopen() is not None

    def close(self) -> None:
        """Stop using the store."""
        opened, self._opened, self._open_at = self._opened, None, float("inf")
        if opened is not None and opened.filter is not None:
            opened.filter.close()

    def withholds_at(self, now_ms: int) -> bool:
        """Return whether no raw uid may be answered at a time because the store is stale."""
        return self._withholds and self._is_stale(now_ms)

    def _is_stale(self, now_ms: int) -> bool:
        opened = self._opened
        return opened is None or now_ms > opened.environment.control.fresh_until_ms

    def _look_up(self, scope: IdentityScope, raw_id: bytes) -> bool | None:
        """Whether an id is in the store; None if the store cannot tell."""
        if self._opened is None or time.monotonic() >= self._check_file_at:
            self.check_file()
        # Further attempts, because another user of the same environment, or a fork, may have closed it.
        for _ in range(_MAX_ATTEMPTS):
            opened = self._opened or self._reopen()
            if opened is None:
                return None
            try:
                with opened.environment as environment:
                    is_absent = opened.filter is not None and not opened.filter.may_contain(scope, raw_id)
                    return not is_absent and contains(environment, scope, raw_id)
            except OptOutStoreError as error:
                self._give_up(opened, str(error))
            except lmdb.ReadersFullError:
                with suppress(OptOutStoreError), opened.environment as environment:
                    environment.lmdb.reader_check()  # frees the slots of processes that were killed
            except lmdb.Error as error:
                self._give_up(opened, type(error).__name__)
        return None

    def _open(self) -> _Opened:
        environment = open_environment(self._directory, is_writable=False)
        if not IS_NATIVE:
            return _Opened(environment, None)
        return _Opened(
            environment,
            FilterReader(
                self._directory,
                environment.store_id,
                environment.control,
                environment.read_last_transaction,
                withholds=self._withholds,
            ),
        )

    def _give_up(self, opened: _Opened, problem: str) -> None:
        environment = opened.environment
        with self._opening:
            if self._opened is not opened:
                return
            self._opened = None
            if opened.filter is not None:
                opened.filter.close()
            if not environment.is_closed:  # else another user of the environment has closed it, for whatever reason
                if not environment.is_writable:
                    environment.close()  # so that it can be opened again
                self._report(problem)

    def _reopen(self) -> _Opened | None:
        """Open the store again, unless the last attempt was just now."""
        with self._opening:
            if self._opened is None and time.monotonic() >= self._open_at:
                try:
                    self._opened = self._open()
                except OptOutStoreError as error:
                    self._open_at = time.monotonic() + self._back_off_s
                    self._back_off_s = min(self._back_off_s * 2, _MAX_BACK_OFF_S)
                    self._report(str(error))
                else:
                    self._open_at, self._back_off_s = 0.0, _MIN_BACK_OFF_S
                    if self._is_reported:
                        self._is_reported = False
                        _log.info("opt-out store usable again", directory=str(self._directory))
            return self._opened

    def _report(self, problem: str) -> None:
        if not self._is_reported:
            self._is_reported = True
            _log.error("opt-out store unusable", directory=str(self._directory), problem=problem)
