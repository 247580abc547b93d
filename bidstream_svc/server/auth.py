"""The optional bearer token of a plane. Its file may change while the service runs."""

from hmac import compare_digest
from pathlib import Path

from bidstream_svc.config import Settings, env_name
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.files import read_secret_file
from bidstream_svc.logs import get_logger

_log = get_logger(__name__)

_SCHEME = "bearer "


class BearerToken:
    """Compares `Authorization` headers with the token in a file, in constant time.

    Args:
        path, variable: as for `read_secret_file`.

    Raises:
        ConfigurationError: as for `read_secret_file`.
    """

    def __init__(self, path: Path, variable: str = "BIDSTREAM_AUTH_TOKEN_FILE") -> None:
        self._path = path
        self._variable = variable
        self._token = read_secret_file(path, variable)
        self._error: str | None = None

    def __repr__(self) -> str:
        """Return a representation without the token."""
        return f"BearerToken({str(self._path)!r})"

    def matches(self, authorization: str | None) -> bool:
        """Return whether an `Authorization` header (None if absent) holds the token."""
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        provided = authorization[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")
        return compare_digest(provided, self._token)

    def reload(self) -> bool:
        """Read the file again. Returns whether the token differs from before.

        If the file is not valid, the old token stays valid, and the error is logged once. Any thread may call this.
        """
        try:
            token = read_secret_file(self._path, self._variable)
        except ConfigurationError as error:
            if str(error) != self._error:
                self._error = str(error)
                _log.warning("bearer token not reloaded", error=str(error))
            return False
        self._error = None
        has_changed = token != self._token
        self._token = token
        return has_changed


def check_optout_secrets(settings: Settings) -> None:
    """Check the files of the bearer token of the webhook and of the stream's password.

    Raises:
        ConfigurationError: one cannot be read or is not valid.
    """
    optout_bearer(settings)
    if (path := settings.optout_stream_password_file) is not None:
        read_secret_file(path, env_name("optout_stream_password_file"))


def optout_bearer(settings: Settings) -> BearerToken | None:
    """Read the token that the webhook requires; None for none.

    Raises:
        ConfigurationError: the file cannot be read or is not valid.
    """
    path = settings.optout_auth_token_file
    return None if path is None else BearerToken(path, env_name("optout_auth_token_file"))
