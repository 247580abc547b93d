"""Options of several commands: a flag for every setting except secrets."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bidstream_svc.config import SECRET_FIELDS, SETTINGS, env_name
from bidstream_svc.core.identity import IdentityScope

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OF_EACH_OPERATOR = ("operator_url", "api_key_file", "client_secret_file")
# Of a command that calls one operator, and of one that calls those of all programmes.
ONLY_OPERATOR_FIELDS = ("allow_insecure_operator", *_OF_EACH_OPERATOR)
OPERATOR_FIELDS = (
    *ONLY_OPERATOR_FIELDS,
    *(f"{scope.name.lower()}_{name}" for scope in IdentityScope for name in _OF_EACH_OPERATOR),
)


def setting_options(*fields: str) -> Callable[[_Command], _Command]:
    """Add the flags of these settings to a command; by default of all settings."""

    def decorate(command: _Command) -> _Command:
        for field in reversed(fields or tuple(SETTINGS)):
            if field not in SECRET_FIELDS:
                command = _option(field)(command)
        return refuse_secrets(command)

    return decorate


def provided(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that were set on the command line; the environment decides the others."""
    return {name: value for name, value in flags.items() if value is not None}


def refuse_secrets(command: _Command) -> _Command:
    """Add hidden flags for secrets that fail with a hint to the environment variable."""
    for field in SECRET_FIELDS:
        command = click.option(_flag(field), hidden=True, expose_value=False, callback=_refuse)(command)
    return command


def _option(field: str) -> Callable[[_Command], _Command]:
    setting = SETTINGS[field]
    text = f"{setting.description} [{env_name(field)}]"
    if setting.is_switch:  # the flag takes no value
        return click.option(_flag(field), is_flag=True, default=None, help=text.replace("1 allows", "allow", 1))
    if setting.default:
        text += f" [default: {setting.default}]"
    return click.option(_flag(field), metavar="VALUE", default=None, help=text)


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _refuse(_context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        name = env_name(str(parameter.name))
        raise click.UsageError(
            f"{parameter.opts[0]}: secrets are not taken from the command line, where every user of this host can "
            f"read them; use {name} or {name}_FILE"
        )
