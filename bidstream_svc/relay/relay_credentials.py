"""The credentials that a relay shares with its sidecars. Their files may change while it runs."""

from collections.abc import Callable
from hmac import compare_digest

from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.logs import get_logger
from bidstream_svc.operator.credentials import Credentials

_log = get_logger(__name__)


class RelayCredentials:
    """The credentials of one programme.

    Args:
        read: reads them; raises ConfigurationError.

    Attributes:
        current: replaced as a whole by `reload`.

    Raises:
        ConfigurationError: they cannot be read.
    """

    def __init__(self, read: Callable[[], Credentials]) -> None:
        self._read = read
        self._error: str | None = None
        self.current = read()

    def matches(self, api_key: str) -> bool:
        """Whether a request has this API key; in constant time."""
        return compare_digest(api_key.encode("utf-8", "surrogateescape"), self.current.api_key.encode())

    def reload(self) -> bool:
        """Read them again. Returns whether they differ from before. Any thread may call this.

        If they cannot be read, the old ones stay valid, and the error is logged once.
        """
        try:
            credentials = self._read()
        except ConfigurationError as error:
            if str(error) != self._error:
                self._error = str(error)
                _log.warning("credentials not reloaded", error=self._error)
            return False
        self._error = None
        has_changed = credentials != self.current
        self.current = credentials
        return has_changed
