"""Settings: from the environment and from flags, checked once at the start, frozen afterwards.

Every setting is described once, in its field: default, what is accepted, how its text is read. The flags of `serve`
and the table in the README come from there. No error repeats a value that may be secret. (A dataclass, and no settings
library: the usual one took 14 MB of every worker and 0.2 s of every start.)
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
    parse_listen_addresses,
)
from bidstream_svc.core.errors import ConfigurationError

ENV_PREFIX = "BIDSTREAM_"
# Never flags: what is in argv, everybody on the host can read.
SECRET_FIELDS = frozenset({"api_key", "client_secret"})

_MAX_WORKERS = 256
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Setting(NamedTuple):
    """What is known of a setting.

    Attributes:
        default: as text; "" for none.
        description: what it means and what is accepted.
        read: text -> value; raises ValueError with what is wrong.
    """

    default: str
    description: str
    read: Callable[[str], Any]

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return self.read is _boolean


def _setting(default: str, description: str, read: Callable[[str], Any]) -> Any:
    """A field of Settings."""
    value = read(default) if default or read in {_addresses, _names} else None
    return field(default=value, repr=read is not _secret, metadata={"setting": Setting(default, description, read)})


def _text(text: str) -> str | None:
    return text or None


def _secret(text: str) -> str | None:
    return text or None


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _collector(text: str) -> str | None:
    # No user name, query or fragment: the collector's headers are settings of the SDK.
    if text and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", text):
        raise ValueError("not an http or https URL")
    return text or None


def _addresses(text: str) -> tuple[ListenAddress, ...]:
    return parse_listen_addresses(text)


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in text.split(",") if name.strip())


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


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError("not an integer") from None
    if number < 1:
        raise ValueError("must be greater than or equal to 1")
    return number


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
    """What `serve` runs by; times are seconds. See `load_settings`."""

    operator_url: str | None = _setting("", "the operator, e.g. https://prod.euid.eu", _text)
    allow_insecure_operator: bool = _setting("0", "1 allows plain http to an operator elsewhere", _boolean)
    api_key: str | None = _setting("", "the operator's API key; never a flag", _secret)
    api_key_file: Path | None = _setting("", "a file that holds the API key, read at every refresh", _path)
    client_secret: str | None = _setting("", "the client secret in base64; never a flag", _secret)
    client_secret_file: Path | None = _setting("", "a file that holds it, read at every refresh", _path)
    listen: tuple[ListenAddress, ...] = _setting(
        "127.0.0.1:8080", "data plane; HOST:PORT, unix:/path or systemd:NAME, comma list", _addresses
    )
    admin_listen: tuple[ListenAddress, ...] = _setting(
        "127.0.0.1:9464", "metrics and health; as above; empty turns it off", _addresses
    )
    refresh_interval: float = _setting("3600", "seconds between key refreshes, drawn from ±10 % of it", _positive)
    key_cache: Path | None = _setting("", "a file for the last key response, as the operator encrypted it", _path)
    workers: int = _setting("1", "processes that share the listening sockets, 1 to 256; auto is one a core", _workers)
    auth_token_file: Path | None = _setting("", "a file with the bearer token that the data plane asks for", _path)
    allow_unauthenticated: bool = _setting("0", "1 allows to listen to the network without a bearer token", _boolean)
    tls_cert: Path | None = _setting("", "certificate chain (PEM) for the data plane's TCP listeners", _path)
    tls_key: Path | None = _setting("", "its private key (PEM)", _path)
    tls_client_ca: Path | None = _setting("", "CA (PEM) whose client certificates are then required", _path)
    allowed_hosts: frozenset[str] = _setting(
        "", "further names that a Host header may carry on loopback listeners, comma list; * allows any", _names
    )
    max_connections: int = _setting("10000", "further connections get a 503 and are closed", _count)
    idle_timeout: float = _setting(
        "75", "seconds an idle connection stays, or one whose client does not read its answers", _positive
    )
    request_timeout: float = _setting("5", "seconds a started request may take to arrive", _positive)
    drain_timeout: float = _setting("10", "seconds that requests in flight get after SIGTERM", _not_negative)
    otlp_endpoint: str | None = _setting(
        "", "a collector for traces over OTLP/HTTP, e.g. http://127.0.0.1:4318; needs the extra otel", _collector
    )
    log_level: str = _setting("info", "debug, info, warning, error", _log_level)
    log_format: str | None = _setting("", "json or console; console on a terminal, else json", _log_format)

    def contradictions(self) -> Iterator[str]:
        """What no field can say alone; each names the variable to change."""
        for name in ("api_key", "client_secret"):
            if getattr(self, name) and getattr(self, f"{name}_file"):
                yield f"{env_name(name)}: given together with {env_name(name)}_FILE; give one of them"
        if self.operator_url is not None:
            yield from _url_problems(self.operator_url, allow_insecure=self.allow_insecure_operator)
        if not self.listen:
            yield f"{env_name('listen')}: empty; at least one address is needed"
        # What systemd passes shows its address only when it is taken over; see server/listeners.py.
        yield from self.exposures(address for address in self.listen if not isinstance(address, SystemdAddress))
        if bool(self.tls_cert) != bool(self.tls_key):
            yield f"{env_name('tls_cert')}: certificate and {env_name('tls_key')} go together"
        if self.tls_client_ca and not self.tls_cert:
            yield f"{env_name('tls_client_ca')}: needs {env_name('tls_cert')} and {env_name('tls_key')}"

    def exposures(self, addresses: Iterable[BoundAddress]) -> Iterator[str]:
        """Which of these addresses the data plane must not be served on, because anybody could ask; one line each."""
        if self.auth_token_file or self.allow_unauthenticated:
            return
        for address in addresses:
            if not address.is_private:
                yield (
                    f"{env_name('listen')}: {address} is open to the network; give {env_name('auth_token_file')},"
                    f" listen on loopback or a Unix socket, or set {env_name('allow_unauthenticated')}=1"
                )

    def require_operator(self) -> None:
        """Check what only a service against a real operator needs.

        Raises:
            ConfigurationError: no URL or no credentials.
        """
        if not self.operator_url:
            raise ConfigurationError(f"{env_name('operator_url')}: missing; e.g. https://prod.euid.eu")
        for name in ("api_key", "client_secret"):
            if not getattr(self, name) and not getattr(self, f"{name}_file"):
                raise ConfigurationError(f"{env_name(name)}: missing; give it or {env_name(name)}_FILE")


# By the field's name, in the order of the fields.
SETTINGS: Mapping[str, Setting] = {entry.name: entry.metadata["setting"] for entry in fields(Settings)}


def env_name(field_name: str) -> str:
    """The environment variable of a field: `BIDSTREAM_LISTEN` for `listen`."""
    return ENV_PREFIX + field_name.upper()


def load_settings(**flags: object) -> Settings:
    """Read the environment; flags given here win. A flag's value is text, or what gives that text; None for unset.

    Raises:
        ConfigurationError: one line: for each problem the variable, what is wrong, what is accepted.
    """
    if strangers := flags.keys() - SETTINGS.keys():
        raise TypeError(f"no such settings: {sorted(strangers)}")
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, setting in SETTINGS.items():
        text = flags[name] if name in flags else os.environ.get(env_name(name))
        if text is None:
            continue
        try:
            values[name] = setting.read(str(text))
        except ValueError as problem:
            problems.append(f"{env_name(name)}: {problem}; accepted: {setting.description}")
    if problems:
        raise ConfigurationError("; ".join(problems))
    settings = Settings(**values)
    if contradictions := list(settings.contradictions()):
        raise ConfigurationError("; ".join(contradictions))
    return settings


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The `BIDSTREAM_*` variables that no setting knows, each with the nearest known name or None."""
    known = [env_name(name) for name in SETTINGS]
    strangers = [name for name in environment if name.startswith(ENV_PREFIX) and name not in known]
    return {name: next(iter(get_close_matches(name, known, n=1)), None) for name in sorted(strangers)}


def _url_problems(url: str, *, allow_insecure: bool) -> Iterator[str]:
    permission = f"set {env_name('allow_insecure_operator')}=1"
    try:
        check_base_url(url, allow_insecure=allow_insecure, name=env_name("operator_url"), permission=permission)
    except ConfigurationError as problem:
        yield str(problem)
