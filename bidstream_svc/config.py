"""Settings from environment variables and flags, validated at start and immutable.

A field of `Settings` is the only declaration of a setting: its default, its description and its parser. The flags of
`serve` and the documented table of settings derive from it. No error contains a value that may be secret.

This is a plain dataclass because the usual settings library costs 14 MB per worker and 0.2 s per start.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from bidstream_svc.addresses import (
    BoundAddress,
    ListenAddress,
    SystemdAddress,
    check_base_url,
    overlapping,
    parse_host_names,
    parse_listen_addresses,
)
from bidstream_svc.core.errors import ConfigurationError

ENV_PREFIX = "BIDSTREAM_"

_MAX_WORKERS = 256
# Heartbeats are half a second apart, and a busy machine may delay one.
_MIN_HANG_TIMEOUT_S = 2
_SIZE_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Setting(NamedTuple):
    """Declaration of a setting.

    Attributes:
        default: as text; "" for none.
        description: meaning and accepted values.
        parse: text to value; raises ValueError with the problem.
    """

    default: str
    description: str
    parse: Callable[[str], Any]

    @property
    def is_switch(self) -> bool:
        """Whether it is a boolean."""
        return self.parse is _boolean


def _setting(default: str, description: str, parse: Callable[[str], Any]) -> Any:
    """Declare a field of Settings."""
    value = parse(default) if default or parse in {_addresses, _names} else None
    return field(default=value, repr=parse is not _secret, metadata={"setting": Setting(default, description, parse)})


def _text(text: str) -> str | None:
    return text or None


def _secret(text: str) -> str | None:
    return text or None


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _collector(text: str) -> str | None:
    # No user name, query or fragment: OpenTelemetry's own variables set headers.
    if text and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", text):
        raise ValueError("not an http or https URL")
    return text or None


def _addresses(text: str) -> tuple[ListenAddress, ...]:
    return parse_listen_addresses(text)


def _names(text: str) -> frozenset[str]:
    return parse_host_names(text)


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ValueError("not a boolean") from None


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError("not a valid number") from None
    if not isfinite(number):
        raise ValueError("not a finite number")
    return number


def _positive(text: str) -> float:
    number = _number(text)
    if number <= 0:
        raise ValueError("must be greater than 0")
    return number


def _not_negative(text: str) -> float:
    number = _number(text)
    if number < 0:
        raise ValueError("must be greater than or equal to 0")
    return number


def _hang_timeout(text: str) -> float:
    number = _number(text)
    if number < _MIN_HANG_TIMEOUT_S:
        raise ValueError(f"must be greater than or equal to {_MIN_HANG_TIMEOUT_S}")
    return number


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError("not an integer") from None
    if number < 1:
        raise ValueError("must be greater than or equal to 1")
    return number


def _size(text: str) -> int:
    """Parse a number of bytes: digits, and KiB, MiB or GiB."""
    found = re.fullmatch(r"([1-9][0-9]{0,11}) ?(KiB|MiB|GiB)?", text.strip())
    if found is None:
        raise ValueError("not a size such as 64MiB")
    return int(found[1]) * _SIZE_UNITS[found[2] or ""]


def _workers(text: str) -> int:
    number = len(os.sched_getaffinity(0)) if text == "auto" else _count(text)
    if number > _MAX_WORKERS:
        raise ValueError(f"must be less than or equal to {_MAX_WORKERS}")
    return number


def _log_level(text: str) -> str:
    if text not in {"debug", "info", "warning", "error"}:
        raise ValueError("not one of 'debug', 'info', 'warning' or 'error'")
    return text


def _log_format(text: str) -> str:
    if text not in {"json", "console"}:
        raise ValueError("not one of 'json' or 'console'")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of `serve`, made by `load_settings`. Times are in seconds."""

    operator_url: str | None = _setting("", "base URL of the operator, e.g. https://prod.euid.eu", _text)
    allow_insecure_operator: bool = _setting("0", "1 allows plain http to an operator on another host", _boolean)
    api_key: str | None = _setting("", "API key; not available as a flag", _secret)
    api_key_file: Path | None = _setting("", "file with the API key, read at every refresh", _path)
    client_secret: str | None = _setting("", "client secret in base64; not available as a flag", _secret)
    client_secret_file: Path | None = _setting("", "file with the client secret, read at every refresh", _path)
    listen: tuple[ListenAddress, ...] = _setting(
        "127.0.0.1:8080",
        "addresses of the data plane: HOST:PORT, unix:/path or systemd:NAME, comma-separated",
        _addresses,
    )
    admin_listen: tuple[ListenAddress, ...] = _setting(
        "127.0.0.1:9464",
        "addresses of the admin plane: HOST:PORT, unix:/path or systemd:NAME, comma-separated; empty turns it off",
        _addresses,
    )
    refresh_interval: float = _setting(
        "3600", "mean seconds between key refreshes; each interval varies by up to 10 %", _positive
    )
    key_cache: Path | None = _setting("", "file for the last key response, encrypted as the operator sent it", _path)
    workers: int = _setting("1", "number of worker processes, 1 to 256; auto is one per CPU core", _workers)
    auth_token_file: Path | None = _setting("", "file with the bearer token that the data plane requires", _path)
    allow_unauthenticated: bool = _setting("0", "1 allows listening on the network without a bearer token", _boolean)
    tls_cert: Path | None = _setting("", "PEM certificate chain for the data plane's TCP listeners", _path)
    tls_key: Path | None = _setting("", "PEM private key of that certificate", _path)
    tls_client_ca: Path | None = _setting(
        "", "PEM CA certificates; clients must present a certificate issued by one of them", _path
    )
    allowed_hosts: frozenset[str] = _setting(
        "", "additional Host header names that loopback listeners accept, comma-separated; * accepts any", _names
    )
    max_connections: int = _setting(
        "10000", "maximum number of open connections; further ones get a 503 and are closed", _count
    )
    max_buffered: int = _setting(
        "64MiB",
        "maximum size of a worker's unanswered requests and unread answers;"
        " above it, the newest connections get a 503 and are closed",
        _size,
    )
    hang_timeout: float = _setting(
        "10", "seconds without a turn of a worker's event loop after which it is replaced; at least 2", _hang_timeout
    )
    idle_timeout: float = _setting(
        "75",
        "seconds after which an idle connection, or one whose client does not read its answers, is closed",
        _positive,
    )
    request_timeout: float = _setting("5", "seconds in which a request must arrive once it has begun", _positive)
    drain_timeout: float = _setting("10", "seconds that requests in flight get to finish after SIGTERM", _not_negative)
    otlp_endpoint: str | None = _setting(
        "", "collector for traces over OTLP/HTTP, e.g. http://127.0.0.1:4318; requires the extra otel", _collector
    )
    log_level: str = _setting("info", "debug, info, warning or error", _log_level)
    log_format: str | None = _setting("", "json or console; by default console on a terminal, else json", _log_format)

    def validate(self) -> None:
        """Check what depends on several settings.

        Raises:
            ConfigurationError: one line; each problem names the variable to change.
        """
        if problems := list(self._problems()):
            raise ConfigurationError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        for name in SECRET_FIELDS:
            if getattr(self, name) and getattr(self, f"{name}_file"):
                yield f"{env_name(name)}: set together with {env_name(name)}_FILE; set only one of them"
        if self.operator_url is not None:
            try:
                check_operator_url(
                    env_name("operator_url"), self.operator_url, allow_insecure=self.allow_insecure_operator
                )
            except ConfigurationError as problem:
                yield str(problem)
        if not self.listen:
            yield f"{env_name('listen')}: empty; at least one address is required"
        for one, other in overlapping([*self.listen, *self.admin_listen]):
            names = [env_name(name) for name in ("listen", "admin_listen") if {one, other} & {*getattr(self, name)}]
            what = f"{one} is given twice" if one == other else f"{one} and {other} overlap"
            yield f"{', '.join(names)}: {what}; choose another"
        # The addresses of systemd's sockets are known only once they are opened; see server/sockets.py.
        yield from self.authentication_problems(
            address for address in self.listen if not isinstance(address, SystemdAddress)
        )
        if bool(self.tls_cert) != bool(self.tls_key):
            yield f"{env_name('tls_cert')}: must be set together with {env_name('tls_key')}"
        if self.tls_client_ca and not self.tls_cert:
            yield f"{env_name('tls_client_ca')}: requires {env_name('tls_cert')} and {env_name('tls_key')}"

    def authentication_problems(self, addresses: Iterable[BoundAddress]) -> Iterator[str]:
        """Yield a problem for each of these data plane addresses that is open to the network without authentication."""
        if self.auth_token_file or self.allow_unauthenticated:
            return
        for address in addresses:
            if not address.is_local:
                yield (
                    f"{env_name('listen')}: {address} is open to the network; set {env_name('auth_token_file')},"
                    f" listen on loopback or a Unix socket, or set {env_name('allow_unauthenticated')}=1"
                )

    def require_operator(self) -> None:
        """Check that an operator and credentials are configured.

        Raises:
            ConfigurationError: no URL or no credentials.
        """
        if not self.operator_url:
            raise ConfigurationError(f"{env_name('operator_url')}: missing; e.g. https://prod.euid.eu")
        self.require_credentials()

    def require_credentials(self) -> None:
        """Check that credentials are configured.

        Raises:
            ConfigurationError: no API key or no client secret.
        """
        for name in self._missing_credentials:
            raise ConfigurationError(f"{env_name(name)}: missing; set it or {env_name(name)}_FILE")

    @property
    def has_credentials(self) -> bool:
        """Whether API key and client secret are configured."""
        return not self._missing_credentials

    @property
    def _missing_credentials(self) -> list[str]:
        return [name for name in SECRET_FIELDS if not getattr(self, name) and not getattr(self, f"{name}_file")]


# By field name, in declaration order.
SETTINGS: Mapping[str, Setting] = {entry.name: entry.metadata["setting"] for entry in fields(Settings)}
# Not available as flags: every user of the host can read the command line of a process.
SECRET_FIELDS = tuple(name for name, setting in SETTINGS.items() if setting.parse is _secret)


def env_name(field_name: str) -> str:
    """Return the environment variable of a field: `BIDSTREAM_LISTEN` for `listen`."""
    return ENV_PREFIX + field_name.upper()


def load_settings(**flags: object) -> Settings:
    """Load settings from the environment. Flags override it.

    Args:
        flags: values by field name, as text or as objects whose `str` is the text. None selects the default, even if
            the variable is set.

    Raises:
        ConfigurationError: one line; for each problem the variable, the problem, and what is accepted.
        TypeError: a flag is not a setting.
    """
    if unknown_names := flags.keys() - SETTINGS.keys():
        raise TypeError(f"unknown settings: {sorted(unknown_names)}")
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, setting in SETTINGS.items():
        text = flags[name] if name in flags else os.environ.get(env_name(name))
        if text is None:
            continue
        try:
            values[name] = setting.parse(str(text))
        except ValueError as problem:
            problems.append(f"{env_name(name)}: {problem}; accepted: {setting.description}")
    if problems:
        raise ConfigurationError("; ".join(problems))
    settings = Settings(**values)
    settings.validate()
    return settings


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return the `BIDSTREAM_*` variables that are not settings, each with the most similar known name or None."""
    known = [env_name(name) for name in SETTINGS]
    unknown_names = [name for name in environment if name.startswith(ENV_PREFIX) and name not in known]
    return {name: next(iter(get_close_matches(name, known, n=1)), None) for name in sorted(unknown_names)}


def check_operator_url(name: str, url: str, *, allow_insecure: bool) -> str:
    """Check an operator's URL as `check_base_url` does. Errors name the setting that allows plain http."""
    hint = f"set {env_name('allow_insecure_operator')}=1"
    return check_base_url(url, allow_insecure=allow_insecure, name=name, hint=hint)
