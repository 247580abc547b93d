"""Settings: from the environment and from flags, checked once at the start, frozen afterwards.

Every setting is described once, in its field: name, default, what is accepted. The flags of `serve` and the table in
the README come from there. No error repeats a value that may be secret.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bidstream_svc.addresses import (
    DEFAULT_ADMIN_LISTEN,
    BoundAddress,
    ListenAddress,
    SystemdAddress,
    check_base_url,
    parse_listen_addresses,
)
from bidstream_svc.errors import ConfigurationError

__all__ = ["ENV_PREFIX", "SECRET_FIELDS", "Settings", "env_name", "load_settings", "unknown_variables"]

ENV_PREFIX = "BIDSTREAM_"
# Never flags: what is in argv, everybody on the host can read.
SECRET_FIELDS = frozenset({"api_key", "client_secret"})


def _to_addresses(value: object) -> object:
    return parse_listen_addresses(value) if isinstance(value, str) else value


def _to_workers(value: object) -> object:
    return len(os.sched_getaffinity(0)) if value == "auto" else value


def _to_names(value: object) -> object:
    return {name.strip().lower() for name in value.split(",") if name.strip()} if isinstance(value, str) else value


def _empty_to_none(value: object) -> object:
    return None if value == "" else value


Addresses = Annotated[tuple[ListenAddress, ...], NoDecode, BeforeValidator(_to_addresses)]
OptionalPath = Annotated[Path | None, BeforeValidator(_empty_to_none)]
OptionalText = Annotated[str | None, BeforeValidator(_empty_to_none)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_empty_to_none)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """What `serve` runs by. A field's description says what is accepted; times are seconds."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    operator_url: OptionalText = Field(None, description="the operator, e.g. https://prod.euid.eu")
    allow_insecure_operator: bool = Field(False, description="1 allows plain http to an operator elsewhere")
    api_key: OptionalSecret = Field(None, description="the operator's API key; never a flag")
    api_key_file: OptionalPath = Field(None, description="a file that holds the API key, read at every refresh")
    client_secret: OptionalSecret = Field(None, description="the client secret in base64; never a flag")
    client_secret_file: OptionalPath = Field(None, description="a file that holds it, read at every refresh")
    listen: Addresses = Field(
        "127.0.0.1:8080",
        validate_default=True,
        description="data plane; HOST:PORT, unix:/path or systemd:NAME, comma list",
    )
    admin_listen: Addresses = Field(
        DEFAULT_ADMIN_LISTEN, validate_default=True, description="metrics and health; as above; empty turns it off"
    )
    refresh_interval: Seconds = Field(3600, description="seconds between key refreshes, drawn from ±10 % of it")
    key_cache: OptionalPath = Field(None, description="a file for the last key response, as the operator encrypted it")
    workers: Annotated[int, BeforeValidator(_to_workers), Field(ge=1, le=256)] = Field(
        1, description="processes that share the listening sockets, 1 to 256; auto is one a core"
    )
    auth_token_file: OptionalPath = Field(None, description="a file with the bearer token that the data plane asks for")
    allow_unauthenticated: bool = Field(False, description="1 allows to listen to the network without a bearer token")
    tls_cert: OptionalPath = Field(None, description="certificate chain (PEM) for the data plane's TCP listeners")
    tls_key: OptionalPath = Field(None, description="its private key (PEM)")
    tls_client_ca: OptionalPath = Field(None, description="CA (PEM) whose client certificates are then required")
    allowed_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(_to_names)] = Field(
        "",
        validate_default=True,
        description="further names that a Host header may carry on loopback listeners, comma list; * allows any",
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(10_000, description="further connections are closed")
    idle_timeout: Seconds = Field(75, description="seconds an idle connection stays")
    request_timeout: Seconds = Field(5, description="seconds a started request may take to arrive")
    drain_timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        10, description="seconds that requests in flight get after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning, error")
    log_format: Literal["json", "console"] | None = Field(
        None, description="json or console; console on a terminal, else json"
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        for problem in self._contradictions():
            raise ValueError(problem)
        return self

    def _contradictions(self) -> Iterator[str]:
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


def env_name(field: str) -> str:
    """The environment variable of a field: `BIDSTREAM_LISTEN` for `listen`."""
    return ENV_PREFIX + field.upper()


def load_settings(**flags: Any) -> Settings:
    """Read the environment; flags given here win.

    Raises:
        ConfigurationError: one line a problem: the variable, what is wrong, what is accepted.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_describe(error))) from None


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The `BIDSTREAM_*` variables that no setting knows, each with the nearest known name or None."""
    known = [env_name(field) for field in Settings.model_fields]
    strangers = [name for name in environment if name.startswith(ENV_PREFIX) and name not in known]
    return {name: next(iter(get_close_matches(name, known, n=1)), None) for name in sorted(strangers)}


def _url_problems(url: str, *, allow_insecure: bool) -> Iterator[str]:
    permission = f"set {env_name('allow_insecure_operator')}=1"
    try:
        check_base_url(url, allow_insecure=allow_insecure, name=env_name("operator_url"), permission=permission)
    except ConfigurationError as problem:
        yield str(problem)


def _describe(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            yield message  # of _contradictions, which names the variable itself
            continue
        field = str(problem["loc"][0])
        yield f"{env_name(field)}: {message}; accepted: {Settings.model_fields[field].description}"
