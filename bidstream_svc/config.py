"""Settings from environment variables and flags, validated at start and immutable.

A field of `Settings` is the only declaration of a setting: its default, its description and its parser. The flags of
`serve` and the documented table of settings derive from it. No error contains a value that may be secret.

This is a plain dataclass because the usual settings library costs 14 MB per worker and 0.2 s per start.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from bidstream_svc.addresses import (
    BoundAddress,
    ListenAddress,
    SystemdAddress,
    overlapping,
)
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.operator_settings import ENV_PREFIX, OPERATOR_FIELDS, OperatorSettings, env_name
from bidstream_svc.setting_values import (
    to_addresses,
    to_boolean,
    to_collector,
    to_count,
    to_eid_sources,
    to_hang_timeout,
    to_log_format,
    to_log_level,
    to_names,
    to_not_negative,
    to_parameter,
    to_path,
    to_positive,
    to_secret,
    to_size,
    to_stream,
    to_stream_name,
    to_text,
    to_url_path,
    to_when_stale,
    to_workers,
)

__all__ = [
    "ENV_PREFIX",
    "SECRET_FIELDS",
    "SETTINGS",
    "SNAPSHOT_PATH",
    "Setting",
    "Settings",
    "env_name",
    "load_settings",
    "unknown_variables",
]

SNAPSHOT_PATH = "/snapshot"  # beside the webhook


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
        return self.parse is to_boolean


def _setting(default: str, description: str, parse: Callable[[str], Any]) -> Any:
    """Declare a field of Settings."""
    value = parse(default) if default or parse in {to_addresses, to_names} else None
    # A factory, because a mapping is refused as a default.
    return field(
        default_factory=lambda: value,
        repr=parse is not to_secret,
        metadata={"setting": Setting(default, description, parse)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of `serve`, made by `load_settings`. Times are in seconds."""

    operator_url: str | None = _setting("", "base URL of the operator, e.g. https://prod.euid.eu", to_text)
    operator_fallback_url: str | None = _setting(
        "", "base URL asked for keys when the one of the operator, or of a relay, does not answer", to_text
    )
    allow_insecure_operator: bool = _setting("0", "1 allows plain http to an operator on another host", to_boolean)
    api_key: str | None = _setting("", "API key; not available as a flag", to_secret)
    api_key_file: Path | None = _setting("", "file with the API key, read at every refresh", to_path)
    client_secret: str | None = _setting("", "client secret in base64; not available as a flag", to_secret)
    client_secret_file: Path | None = _setting("", "file with the client secret, read at every refresh", to_path)
    uid2_operator_url: str | None = _setting("", "base URL of the UID2 operator", to_text)
    uid2_operator_fallback_url: str | None = _setting("", "the same for UID2", to_text)
    uid2_api_key: str | None = _setting("", "API key for the UID2 operator; not available as a flag", to_secret)
    uid2_api_key_file: Path | None = _setting("", "file with the API key for the UID2 operator", to_path)
    uid2_client_secret: str | None = _setting(
        "", "client secret for the UID2 operator; not available as a flag", to_secret
    )
    uid2_client_secret_file: Path | None = _setting("", "file with the client secret for the UID2 operator", to_path)
    uid2_key_cache: Path | None = _setting("", "file for the last key response of the UID2 operator", to_path)
    euid_operator_url: str | None = _setting("", "base URL of the EUID operator", to_text)
    euid_operator_fallback_url: str | None = _setting("", "the same for EUID", to_text)
    euid_api_key: str | None = _setting("", "API key for the EUID operator; not available as a flag", to_secret)
    euid_api_key_file: Path | None = _setting("", "file with the API key for the EUID operator", to_path)
    euid_client_secret: str | None = _setting(
        "", "client secret for the EUID operator; not available as a flag", to_secret
    )
    euid_client_secret_file: Path | None = _setting("", "file with the client secret for the EUID operator", to_path)
    euid_key_cache: Path | None = _setting("", "file for the last key response of the EUID operator", to_path)
    eid_sources: Mapping[str, IdentityScope] = _setting(
        "uidapi.com=UID2,euid.eu=EUID",
        "programme of each source of OpenRTB eids: SOURCE=UID2 or SOURCE=EUID, comma-separated",
        to_eid_sources,
    )
    listen: tuple[ListenAddress, ...] = _setting(
        "127.0.0.1:8080",
        "addresses of the data plane: HOST:PORT, unix:/path or systemd:NAME, comma-separated",
        to_addresses,
    )
    admin_listen: tuple[ListenAddress, ...] = _setting(
        "127.0.0.1:9464",
        "addresses of the admin plane: HOST:PORT, unix:/path or systemd:NAME, comma-separated; empty turns it off",
        to_addresses,
    )
    console: bool = _setting("0", "1 allows the console for people, at /console of the admin plane", to_boolean)
    refresh_interval: float = _setting(
        "3600", "mean seconds between key refreshes; each interval varies by up to 10 %", to_positive
    )
    key_cache: Path | None = _setting("", "file for the last key response, encrypted as the operator sent it", to_path)
    workers: int = _setting("1", "number of worker processes, 1 to 256; auto is one per CPU core", to_workers)
    auth_token_file: Path | None = _setting("", "file with the bearer token that the data plane requires", to_path)
    allow_unauthenticated: bool = _setting("0", "1 allows listening on the network without a bearer token", to_boolean)
    tls_cert: Path | None = _setting("", "PEM certificate chain for the data plane's TCP listeners", to_path)
    tls_key: Path | None = _setting("", "PEM private key of that certificate", to_path)
    tls_client_ca: Path | None = _setting(
        "", "PEM CA certificates; clients must present a certificate issued by one of them", to_path
    )
    allowed_hosts: frozenset[str] = _setting(
        "", "additional Host header names that loopback listeners accept, comma-separated; * accepts any", to_names
    )
    max_connections: int = _setting(
        "10000", "maximum number of open connections; further ones get a 503 and are closed", to_count
    )
    max_buffered: int = _setting(
        "64MiB",
        "maximum size of a worker's unanswered requests and unread answers;"
        " above it, the newest connections get a 503 and are closed",
        to_size,
    )
    hang_timeout: float = _setting(
        "10", "seconds without a turn of a worker's event loop after which it is replaced; at least 2", to_hang_timeout
    )
    idle_timeout: float = _setting(
        "75",
        "seconds after which an idle connection, or one whose client does not read its answers, is closed",
        to_positive,
    )
    request_timeout: float = _setting("5", "seconds in which a request must arrive once it has begun", to_positive)
    drain_timeout: float = _setting(
        "10", "seconds that requests in flight get to finish after SIGTERM", to_not_negative
    )
    optout_store: Path | None = _setting(
        "", "directory of the opt-out store; the raw uids in it are never answered", to_path
    )
    optout_listen: tuple[ListenAddress, ...] = _setting(
        "",
        "addresses of the webhook for opt-outs: HOST:PORT, unix:/path or systemd:NAME, comma-separated",
        to_addresses,
    )
    optout_path: str = _setting("/optout", "path of the webhook", to_url_path)
    optout_id_parameter: str = _setting(
        "identity", "parameter of the webhook's query that holds the raw uid", to_parameter
    )
    optout_time_parameter: str = _setting(
        "timestamp", "parameter of the webhook's query that holds the time of the opt-out", to_parameter
    )
    optout_auth_token_file: Path | None = _setting(
        "", "file with the bearer token that the webhook and snapshots require", to_path
    )
    optout_stream: str | None = _setting(
        "",
        "Redis or Valkey server with the stream of opt-outs: redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH",
        to_stream,
    )
    optout_stream_name: str = _setting("bidstream:optouts", "name of that stream", to_stream_name)
    optout_stream_password_file: Path | None = _setting(
        "", "file with the password of that server, or with USER:PASSWORD", to_path
    )
    optout_snapshot_url: str | None = _setting(
        "", "receiver from which to get all opt-outs, e.g. http://optouts.example/snapshot", to_collector
    )
    optout_max_age: float = _setting(
        "900", "seconds without contact to the stream after which the store is stale", to_positive
    )
    optout_when_stale: str = _setting(
        "serve", "serve or withhold: whether raw uids are answered while the store is stale", to_when_stale
    )
    otlp_endpoint: str | None = _setting(
        "", "collector for traces over OTLP/HTTP, e.g. http://127.0.0.1:4318; requires the extra otel", to_collector
    )
    log_level: str = _setting("info", "debug, info, warning or error", to_log_level)
    log_format: str | None = _setting("", "json or console; by default console on a terminal, else json", to_log_format)
    # "flag" or "environment" by the name of each setting that has not its default. It is no setting.
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def validate(self) -> None:
        """Check what depends on several settings.

        Raises:
            ConfigurationError: one line; each problem names the variable to change.
        """
        if problems := list(self._problems()):
            raise ConfigurationError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        yield from self._form_problems()
        for operator in self.operators:
            yield from operator.problems()
        if not self.listen:
            yield f"{env_name('listen')}: empty; at least one address is required"
        for one, other in overlapping([*self.listen, *self.admin_listen, *self.optout_listen]):
            fields_of_addresses = ("listen", "admin_listen", "optout_listen")
            names = [env_name(name) for name in fields_of_addresses if {one, other} & {*getattr(self, name)}]
            what = f"{one} is given twice" if one == other else f"{one} and {other} overlap"
            yield f"{', '.join(names)}: {what}; choose another"
        # The addresses of systemd's sockets are known only once they are opened; see server/sockets.py.
        yield from self.authentication_problems(_without_systemd(self.listen))
        yield from self.authentication_problems(_without_systemd(self.admin_listen), "admin_")
        if bool(self.tls_cert) != bool(self.tls_key):
            yield f"{env_name('tls_cert')}: must be set together with {env_name('tls_key')}"
        if self.tls_client_ca and not self.tls_cert:
            yield f"{env_name('tls_client_ca')}: requires {env_name('tls_cert')} and {env_name('tls_key')}"
        yield from self._optout_problems()

    def _optout_problems(self) -> Iterator[str]:
        for name in ("optout_listen", "optout_stream"):
            if getattr(self, name) and self.optout_store is None:
                yield f"{env_name(name)}: requires {env_name('optout_store')}"
        for name in ("optout_snapshot_url", "optout_stream_password_file"):
            if getattr(self, name) and self.optout_stream is None:
                yield f"{env_name(name)}: requires {env_name('optout_stream')}"
        if self.optout_path == SNAPSHOT_PATH:
            yield f"{env_name('optout_path')}: {SNAPSHOT_PATH} is where hosts get all raw uids; choose another"
        if self.optout_id_parameter == self.optout_time_parameter:
            yield f"{env_name('optout_time_parameter')}: is the same as {env_name('optout_id_parameter')}"
        if self.optout_when_stale == "withhold" and self.optout_stream is None:
            yield f"{env_name('optout_when_stale')}: withhold requires {env_name('optout_stream')}"
        yield from self.authentication_problems(_without_systemd(self.optout_listen), "optout_")

    def authentication_problems(self, addresses: Iterable[BoundAddress], prefix: str = "") -> Iterator[str]:
        """Yield a problem for each of these addresses that is open to the network without authentication.

        Args:
            addresses: those of the data plane.
            prefix: "optout_" for those of the webhook, "admin_" for those of the admin plane, which needs
                authentication for the console only.
        """
        is_admin = prefix == "admin_"
        token_file = "auth_token_file" if is_admin else f"{prefix}auth_token_file"
        if getattr(self, token_file) or self.allow_unauthenticated or (is_admin and not self.console):
            return
        for address in addresses:
            if not address.is_local:
                yield (
                    f"{env_name(f'{prefix}listen')}: {address} is open to the network; set {env_name(token_file)},"
                    f" listen on loopback or a Unix socket, or set {env_name('allow_unauthenticated')}=1"
                )

    def _form_problems(self) -> Iterator[str]:
        """Yield the problems of operators beside each other."""
        with_programme = [name for operator in self._named_operators for name in operator.names_set]
        without = self._only_operator.names_set
        if with_programme and without:
            yield (
                f"{env_name(without[0])}: set together with {env_name(with_programme[0])};"
                " use either the names with a programme or those without"
            )
        caches = [operator.key_cache for operator in self.operators if operator.key_cache is not None]
        if len(caches) > len(set(caches)):
            yield f"{env_name('euid_key_cache')}: equals {env_name('uid2_key_cache')}; name another file"

    @property
    def operators(self) -> tuple[OperatorSettings, ...]:
        """The operators: one for each programme that is named, in the order UID2, EUID, or the only one."""
        return tuple(operator for operator in self._named_operators if operator.names_set) or (self._only_operator,)

    @property
    def only_operator(self) -> OperatorSettings:
        """The operator, for a command that calls one.

        Raises:
            ConfigurationError: there are two.
        """
        if len(self.operators) > 1:
            raise ConfigurationError(
                f"{env_name('uid2_operator_url')}: set together with {env_name('euid_operator_url')};"
                " this command calls one operator, so unset the variables of the other programme"
            )
        return self.operators[0]

    @property
    def _named_operators(self) -> tuple[OperatorSettings, ...]:
        return tuple(self._operator(f"{scope.name.lower()}_", scope) for scope in IdentityScope)

    @property
    def _only_operator(self) -> OperatorSettings:
        return self._operator("", None)

    def _operator(self, prefix: str, scope: IdentityScope | None) -> OperatorSettings:
        values = {name: getattr(self, prefix + name) for name in OPERATOR_FIELDS}
        return OperatorSettings(
            prefix=prefix, scope=scope, allow_insecure_operator=self.allow_insecure_operator, **values
        )

    def require_operators(self) -> None:
        """Check that every operator has a URL and credentials.

        Raises:
            ConfigurationError: one line with what is missing.
        """
        if missing := [problem for operator in self.operators for problem in operator.missing()]:
            raise ConfigurationError("; ".join(missing))


def _without_systemd(addresses: Iterable[ListenAddress]) -> Iterator[BoundAddress]:
    return (address for address in addresses if not isinstance(address, SystemdAddress))


# By field name, in declaration order.
SETTINGS: Mapping[str, Setting] = {
    entry.name: entry.metadata["setting"] for entry in fields(Settings) if "setting" in entry.metadata
}
# Not available as flags: every user of the host can read the command line of a process.
SECRET_FIELDS = tuple(name for name, setting in SETTINGS.items() if setting.parse is to_secret)


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
    origins: dict[str, str] = {}
    problems: list[str] = []
    for name, setting in SETTINGS.items():
        text = flags[name] if name in flags else os.environ.get(env_name(name))
        if text is None:
            continue
        try:
            values[name] = setting.parse(str(text))
            origins[name] = "flag" if name in flags else "environment"
        except ValueError as problem:
            problems.append(f"{env_name(name)}: {problem}; accepted: {setting.description}")
    if problems:
        raise ConfigurationError("; ".join(problems))
    settings = Settings(**values, origins=origins)
    settings.validate()
    return settings


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return the `BIDSTREAM_*` variables that are not settings, each with the most similar known name or None."""
    known = [env_name(name) for name in SETTINGS]
    unknown_names = [name for name in environment if name.startswith(ENV_PREFIX) and name not in known]
    return {name: next(iter(get_close_matches(name, known, n=1)), None) for name in sorted(unknown_names)}
