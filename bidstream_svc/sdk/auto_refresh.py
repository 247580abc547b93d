"""A thread that refreshes the keys of a client."""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Protocol, Self

from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.sdk.decryption import RefreshResponse

_ErrorInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class RefreshableClient(Protocol):
    """A BidstreamClient or a SharingClient."""

    def refresh(self) -> RefreshResponse:
        """Fetch the latest keys."""


@dataclass(frozen=True, slots=True)
class EncryptionKeysAutoRefreshResult:
    """The state of an EncryptionKeysAutoRefresher.

    Attributes:
        keys: the latest keys, or None before the first success.
        last_error: class, exception and traceback of the last refresh if it failed, else None.
        last_success_time: when keys were last fetched (UTC), or None.
    """

    keys: KeySnapshot | None
    last_error: _ErrorInfo | None
    last_success_time: datetime | None

    @property
    def ready(self) -> bool:
        """Whether keys have been fetched, now or earlier."""
        return self.keys is not None


class EncryptionKeysAutoRefresher(threading.Thread):
    """A daemon thread that refreshes the keys of a client: at once, then at intervals.

    Example:
        with EncryptionKeysAutoRefresher(client, timedelta(hours=1), timedelta(seconds=30)) as refresher:
            while not refresher.current_result().ready: ...

    Args:
        client: its `refresh` is called in the thread.
        refresh_interval: the wait after a success.
        retry_interval: the wait after a failure.
    """

    def __init__(self, client: RefreshableClient, refresh_interval: timedelta, retry_interval: timedelta) -> None:
        super().__init__(name="bidstream-svc-auto-refresh", daemon=True)
        self._client = client
        self._refresh_interval_s = refresh_interval.total_seconds()
        self._retry_interval_s = retry_interval.total_seconds()
        self._is_cancelled = threading.Event()
        self._result = EncryptionKeysAutoRefreshResult(
            None, _error_info(RuntimeError("no refresh has been completed yet")), None
        )

    def current_result(self) -> EncryptionKeysAutoRefreshResult:
        """Return the state after the last refresh. It is a snapshot: a later refresh makes another."""
        return self._result

    def run(self) -> None:
        """Refresh until cancelled. `start` calls this in the thread."""
        while not self._is_cancelled.is_set():
            self._result = self._refresh()
            is_good = self._result.last_error is None
            self._is_cancelled.wait(self._refresh_interval_s if is_good else self._retry_interval_s)

    def cancel(self) -> None:
        """Let the thread end after the refresh that is under way, if any. Does not wait for it."""
        self._is_cancelled.set()

    def _refresh(self) -> EncryptionKeysAutoRefreshResult:
        before = self._result
        try:
            response = self._client.refresh()
        except Exception as error:  # noqa: BLE001 - reported in the result; the thread must go on
            return EncryptionKeysAutoRefreshResult(before.keys, _error_info(error), before.last_success_time)
        if response.success:
            return EncryptionKeysAutoRefreshResult(response.keys, None, datetime.now(UTC))
        error_info = _error_info(BidstreamError(response.reason))
        return EncryptionKeysAutoRefreshResult(before.keys, error_info, before.last_success_time)

    def __enter__(self) -> Self:
        """Start the thread."""
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel the thread and wait for its end."""
        self.cancel()
        self.join()


def _error_info(error: BaseException) -> _ErrorInfo:
    return type(error), error, error.__traceback__
