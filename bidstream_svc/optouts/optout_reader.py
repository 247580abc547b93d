"""Looks up raw uids in an opt-out store that other processes write to."""

import threading
import time
from pathlib import Path

import lmdb

from bidstream_svc.core.errors import OptOutRecordError, OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import FailureReason
from bidstream_svc.logs import get_logger
from bidstream_svc.optouts.optout_environment import Environment, open_environment
from bidstream_svc.optouts.optout_records import decode_raw_id
from bidstream_svc.optouts.optout_store import contains

_log = get_logger(__name__)

_FILE_CHECK_INTERVAL_S = 1.0
_MIN_BACK_OFF_S, _MAX_BACK_OFF_S = 0.5, 30.0


class OptOutReader:
    """An opt-out store, open for look-ups. Thread-safe. Open it in the process that uses it, not before a fork.

    A store that becomes unusable (damaged, removed, replaced) is opened again, with back-off, until that succeeds.

    Args:
        directory: the store, which must exist.
        withholds: whether no raw uid may be answered while the store is stale.
        is_required: whether it is an error if the store cannot be opened now. If not, it is unusable until it can.

    Raises:
        OptOutStoreError: it cannot be opened, and `is_required`.
    """

    def __init__(self, directory: Path, *, withholds: bool = False, is_required: bool = True) -> None:
        self._directory = directory
        self._withholds = withholds
        self._opening = threading.Lock()
        self._environment: Environment | None = None
        self._check_file_at = time.monotonic() + _FILE_CHECK_INTERVAL_S
        self._open_at = 0.0
        self._back_off_s = _MIN_BACK_OFF_S
        try:
            self._environment = open_environment(directory, is_writable=False)
        except OptOutStoreError as error:
            if is_required:
                raise
            _log.error("opt-out store unusable", directory=str(directory), problem=str(error))

    @property
    def is_usable(self) -> bool:
        """Whether ids can be looked up. While they cannot, none is answered."""
        return self._environment is not None

    def check(self, scope: IdentityScope, uid: str, now_ms: int) -> FailureReason | None:  # noqa: ARG002
        """Return why a raw uid must not be answered, or None if it may."""
        try:
            raw_id = decode_raw_id(uid)
        except OptOutRecordError:
            return None  # no opt-out can name it
        is_in = self._look_up(scope, raw_id)
        if is_in is None:
            return FailureReason.OPTOUTS_NOT_SYNCED
        return FailureReason.OPTED_OUT if is_in else None

    def check_file(self) -> bool:
        """Return whether the store is usable; once a second that is found out, and an unusable one opened again."""
        if time.monotonic() >= self._check_file_at:
            self._check_file_at = time.monotonic() + _FILE_CHECK_INTERVAL_S
            environment = self._environment
            if environment is not None and (problem := environment.find_problem()):
                self._give_up(environment, problem)
        return self._environment is not None or self._reopen() is not None

    def close(self) -> None:
        """Close the store, unless others of this process use it."""
        self._environment, self._open_at = None, float("inf")

    def _look_up(self, scope: IdentityScope, raw_id: bytes) -> bool | None:
        """Whether an id is in the store; None if the store cannot tell."""
        self.check_file()
        # A second attempt, because another user of the same environment may have closed it.
        for _ in range(2):
            environment = self._environment or self._reopen()
            if environment is None:
                return None
            try:
                return contains(environment, scope, raw_id)
            except lmdb.ReadersFullError:
                environment.lmdb.reader_check()  # frees the slots of processes that were killed
            except lmdb.Error as error:
                self._give_up(environment, type(error).__name__)
        return None

    def _give_up(self, environment: Environment, problem: str) -> None:
        with self._opening:
            if self._environment is environment:
                self._environment = None
                if not environment.is_writable:
                    environment.close()  # so that it can be opened again
                _log.error("opt-out store unusable", directory=str(self._directory), problem=problem)

    def _reopen(self) -> Environment | None:
        """Open the store again, unless the last attempt was just now."""
        with self._opening:
            if self._environment is None and time.monotonic() >= self._open_at:
                try:
                    self._environment = open_environment(self._directory, is_writable=False)
                except OptOutStoreError as error:
                    self._open_at = time.monotonic() + self._back_off_s
                    self._back_off_s = min(self._back_off_s * 2, _MAX_BACK_OFF_S)
                    _log.debug("opt-out store still unusable", problem=str(error))
                else:
                    self._open_at, self._back_off_s = 0.0, _MIN_BACK_OFF_S
                    _log.info("opt-out store usable again", directory=str(self._directory))
            return self._environment
