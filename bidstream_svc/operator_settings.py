"""The settings of one operator: the only one, or that of a programme."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bidstream_svc.addresses import check_base_url
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope

ENV_PREFIX = "BIDSTREAM_"
OPERATOR_FIELDS = (
    *("operator_url", "operator_fallback_url"),
    *("api_key", "api_key_file", "client_secret", "client_secret_file"),
    "key_cache",
)
_CREDENTIALS = ("api_key", "client_secret")


def env_name(field_name: str) -> str:
    """Return the environment variable of a field of the settings: `BIDSTREAM_LISTEN` for `listen`."""
    return ENV_PREFIX + field_name.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """Where keys come from, with which credentials, and where they are cached.

    Attributes:
        prefix: what the names of its settings begin with: "uid2_", "euid_", or "" for the only operator.
        scope: the programme that the names tell; None for the only operator.
    """

    prefix: str
    scope: IdentityScope | None
    allow_insecure_operator: bool
    operator_url: str | None
    operator_fallback_url: str | None
    api_key: str | None = field(repr=False)
    api_key_file: Path | None
    client_secret: str | None = field(repr=False)
    client_secret_file: Path | None
    key_cache: Path | None

    def variable(self, name: str) -> str:
        """Return the environment variable of a field, as error messages name it."""
        return env_name(self.prefix + name)

    @property
    def names_set(self) -> list[str]:
        """The settings of this operator that have a value, with the prefix."""
        return [self.prefix + name for name in OPERATOR_FIELDS if getattr(self, name)]

    @property
    def has_credentials(self) -> bool:
        """Whether API key and client secret are configured."""
        return not self._missing_credentials

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values."""
        for name in _CREDENTIALS:
            if getattr(self, name) and getattr(self, f"{name}_file"):
                yield f"{self.variable(name)}: set together with {self.variable(name)}_FILE; set only one of them"
        for name in ("operator_url", "operator_fallback_url"):
            url = getattr(self, name)
            if url is not None:
                try:
                    check_operator_url(self.variable(name), url, allow_insecure=self.allow_insecure_operator)
                except ConfigurationError as problem:
                    yield str(problem)

    def missing(self) -> list[str]:
        """Return a problem for each setting that a call needs and that is missing."""
        if self.operator_url:
            return self._missing_credentials
        return [f"{self.variable('operator_url')}: missing; {self._example}", *self._missing_credentials]

    def require(self) -> None:
        """Check that URL and credentials are configured.

        Raises:
            ConfigurationError: one line with what is missing.
        """
        if missing := self.missing():
            raise ConfigurationError("; ".join(missing))

    def require_credentials(self) -> None:
        """Check that credentials are configured.

        Raises:
            ConfigurationError: no API key or no client secret.
        """
        if missing := self._missing_credentials:
            raise ConfigurationError("; ".join(missing))

    @property
    def _example(self) -> str:
        example = "e.g. https://prod.uidapi.com" if self.scope is IdentityScope.UID2 else "e.g. https://prod.euid.eu"
        if self.scope is not None or self.names_set:
            return example
        # Nothing is set: the names with a programme may be the ones to set.
        named = " and ".join(env_name(f"{scope.name.lower()}_operator_url") for scope in IdentityScope)
        return f"{example}, or set {named}"

    @property
    def _missing_credentials(self) -> list[str]:
        return [
            f"{self.variable(name)}: missing; set it or {self.variable(name)}_FILE"
            for name in _CREDENTIALS
            if not getattr(self, name) and not getattr(self, f"{name}_file")
        ]


def check_operator_url(name: str, url: str, *, allow_insecure: bool) -> str:
    """Check an operator's URL as `check_base_url` does. Errors name the setting that allows plain http."""
    hint = f"set {env_name('allow_insecure_operator')}=1"
    return check_base_url(url, allow_insecure=allow_insecure, name=name, hint=hint)
