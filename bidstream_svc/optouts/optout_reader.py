"""Looks up raw uids in an opt-out store that other processes write to."""

from pathlib import Path

import lmdb

from bidstream_svc.core.errors import OptOutRecordError, OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import FailureReason
from bidstream_svc.logs import get_logger
from bidstream_svc.optouts.optout_records import decode_raw_id
from bidstream_svc.optouts.optout_store import open_environment

_log = get_logger(__name__)


class OptOutReader:
    """An opt-out store, open for look-ups. Thread-safe. Open it in the process that uses it, not before a fork.

    Args:
        directory: the store, which must exist.
        withholds: whether no raw uid may be answered while the store is stale.

    Attributes:
        is_usable: False once a look-up has failed.

    Raises:
        OptOutStoreError: it cannot be opened.
    """

    def __init__(self, directory: Path, *, withholds: bool = False) -> None:
        self._directory = directory
        self._withholds = withholds
        try:
            self._env = open_environment(directory, readonly=True)
            self._ids = {scope: self._env.open_db(scope.name.lower().encode(), create=False) for scope in IdentityScope}
        except (lmdb.Error, OSError) as error:
            raise OptOutStoreError(f"opt-out store {directory}: {error}") from error
        self.is_usable = True

    def check(self, scope: IdentityScope, uid: str, now_ms: int) -> FailureReason | None:  # noqa: ARG002
        """Return why a raw uid must not be answered, or None if it may."""
        try:
            raw_id = decode_raw_id(uid)
        except OptOutRecordError:
            return None  # no opt-out can name it
        try:
            # A transaction that is kept would never see new ids.
            with self._env.begin(db=self._ids[scope], buffers=True) as transaction:
                is_in = transaction.get(raw_id) is not None
        except lmdb.Error as error:
            if self.is_usable:
                self.is_usable = False
                _log.error("opt-out store unusable", error=type(error).__name__)
            return FailureReason.OPTOUTS_NOT_SYNCED
        return FailureReason.OPTED_OUT if is_in else None

    def close(self) -> None:
        """Close the store."""
        self._env.close()
