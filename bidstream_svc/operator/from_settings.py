"""Transport and credentials from the settings."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.files import read_secret_file
from bidstream_svc.operator.credentials import Credentials, parse_api_key, parse_client_secret
from bidstream_svc.operator.transport import TOTAL_TIMEOUT_S, OperatorTransport, RetryPolicy
from bidstream_svc.operator_settings import OperatorSettings

_T = TypeVar("_T")


def credentials_reader(settings: OperatorSettings) -> Callable[[], Credentials]:
    """Make a function that reads the credentials at each call, so that rotated files need no restart.

    The function raises ConfigurationError if credentials are missing or malformed, or a file cannot be read.
    """

    def read() -> Credentials:
        settings.require_credentials()
        return Credentials(
            _read_secret(settings, "api_key", parse_api_key),
            _read_secret(settings, "client_secret", parse_client_secret),
        )

    return read


def make_transport(
    settings: OperatorSettings, retry: RetryPolicy | None = None, *, total_timeout_s: float = TOTAL_TIMEOUT_S
) -> OperatorTransport:
    """Make a transport to the configured operator.

    Args:
        settings: of the operator. The credentials are read at each attempt of a call.
        retry: how calls are retried; None for the default.
        total_timeout_s: limit for one attempt.

    Raises:
        ConfigurationError: no operator or no credentials are configured, or the operator's URL is not allowed.
    """
    settings.require()
    assert settings.operator_url is not None
    return OperatorTransport(
        settings.operator_url,
        credentials_reader(settings),
        allow_insecure=settings.allow_insecure_operator,
        retry=retry,
        total_timeout_s=total_timeout_s,
    )


def _read_secret(settings: OperatorSettings, field: str, parse: Callable[[str], _T]) -> _T:
    """Read a secret from its variable or its file. Errors name the one of the two that is set."""
    text: str | None = getattr(settings, field)
    variable = settings.variable(field)
    if text is None:
        path: Path = getattr(settings, f"{field}_file")
        variable += "_FILE"
        try:
            text = read_secret_file(path, variable).decode("ascii")
        except UnicodeDecodeError:
            raise ConfigurationError(f"{variable}: {path} is not ASCII text") from None
    try:
        return parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{variable}: {error}") from None
