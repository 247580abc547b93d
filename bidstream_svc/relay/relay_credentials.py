"""The credentials that a relay shares with its sidecars. Their files may change while it runs."""

from collections.abc import Callable, Sequence
from hmac import compare_digest
from threading import Lock

from bidstream_svc.config import env_name
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.logs import get_logger
from bidstream_svc.operator.credentials import Credentials

_log = get_logger(__name__)
_replacing = Lock()  # the files of two programmes may change at the same time


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
        self._others: Sequence[RelayCredentials] = ()
        self.current = read()

    def matches(self, api_key: str) -> bool:
        """Whether a request has this API key; in constant time."""
        return compare_digest(api_key.encode("utf-8", "surrogateescape"), self.current.api_key.encode())

    def reload(self) -> bool:
        """Read them again. Returns whether they differ from before. Any thread may call this.

        If they cannot be read, or have the API key of another programme, the old ones stay valid, and the error is
        logged once.
        """
        try:
            credentials = self._read()
            with _replacing:
                self._require_other_key(credentials)
                has_changed, self.current = credentials != self.current, credentials
        except ConfigurationError as error:
            if str(error) != self._error:
                self._error = str(error)
                _log.warning("credentials not reloaded", error=self._error)
            return False
        self._error = None
        return has_changed

    def keep_apart(self, others: "Sequence[RelayCredentials]") -> None:
        """Have another API key than the other programmes, now and after each `reload`.

        Raises:
            ConfigurationError: one has the same.
        """
        self._others = others
        self._require_other_key(self.current)

    def _require_other_key(self, credentials: Credentials) -> None:
        if any(other.current.api_key == credentials.api_key for other in self._others):
            raise ConfigurationError(
                f"{env_name('euid_api_key')}: equals {env_name('uid2_api_key')}; a relay tells the programme of a"
                " request by its API key"
            )
