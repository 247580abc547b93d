"""The transport and the credentials that the settings ask for."""

from collections.abc import Callable
from pathlib import Path

from bidstream_svc.config import Settings, env_name
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.operator.credentials import Credentials
from bidstream_svc.operator.transport import OperatorTransport, RetryPolicy


def credentials_reader(settings: Settings) -> Callable[[], Credentials]:
    """A function that reads the credentials anew at each call, so that a rotated file needs no restart.

    The function raises ConfigurationError: a file cannot be read, or holds no credentials.
    """

    def read() -> Credentials:
        api_key = _value("api_key", settings.api_key, settings.api_key_file)
        client_secret = _value("client_secret", settings.client_secret, settings.client_secret_file)
        try:
            return Credentials.from_base64(api_key, client_secret)
        except ConfigurationError as error:
            raise ConfigurationError(f"{env_name('api_key')}, {env_name('client_secret')}: {error}") from None

    return read


def make_transport(settings: Settings, retry: RetryPolicy | None = None) -> OperatorTransport:
    """A transport to the operator of the settings.

    Raises:
        ConfigurationError: there is none, or no credentials are given.
    """
    settings.require_operator()
    assert settings.operator_url is not None
    return OperatorTransport(
        settings.operator_url,
        credentials_reader(settings),
        allow_insecure=settings.allow_insecure_operator,
        retry=retry,
    )


def _value(field: str, value: str | None, path: Path | None) -> str:
    if value is not None:
        return value
    if path is None:
        raise ConfigurationError(f"{env_name(field)}: missing; give it or {env_name(field)}_FILE")
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigurationError(f"{env_name(field)}_FILE: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{env_name(field)}_FILE: {path} is not a text file") from None
