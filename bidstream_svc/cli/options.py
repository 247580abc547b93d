"""Options that several commands take: a flag for every setting that is no secret, and none for those that are."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bidstream_svc.config import SECRET_FIELDS, SETTINGS, env_name

_Command = TypeVar("_Command", bound=Callable[..., Any])

OPERATOR_FIELDS = ("operator_url", "allow_insecure_operator", "api_key_file", "client_secret_file")


def setting_options(*fields: str) -> Callable[[_Command], _Command]:
    """Give a command the flags of these settings; all settings if none is named."""

    def decorate(command: _Command) -> _Command:
        for field in reversed(fields or tuple(SETTINGS)):
            if field not in SECRET_FIELDS:
                command = _option(field)(command)
        return refuse_secrets(command)

    return decorate


def provided(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given; the others are left to the environment."""
    return {name: value for name, value in flags.items() if value is not None}


def refuse_secrets(command: _Command) -> _Command:
    """Refuse flags that would carry a secret, with a line that says where it belongs instead."""
    for field in sorted(SECRET_FIELDS):
        command = click.option(_flag(field), hidden=True, expose_value=False, callback=_refuse)(command)
    return command


def _option(field: str) -> Callable[[_Command], _Command]:
    setting = SETTINGS[field]
    text = f"{setting.description} [{env_name(field)}]"
    if setting.is_switch:
        return click.option(_flag(field), is_flag=True, default=None, help=text)
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
