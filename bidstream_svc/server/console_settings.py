"""The settings in force and where each came from, without the values of secrets."""

from collections.abc import Mapping
from typing import NamedTuple

from bidstream_svc.config import SECRET_FIELDS, SETTINGS, Settings, env_name

_SET = "set, not shown"


class SettingInForce(NamedTuple):
    """A setting.

    Attributes:
        name: of its variable.
        value: as text; "" for none.
        origin: flag, environment or default.
    """

    name: str
    value: str
    origin: str


def settings_in_force(settings: Settings) -> list[SettingInForce]:
    """Return all settings in the order of their declaration. No URL among them has a user name or a password."""
    return [
        SettingInForce(env_name(name), _text(name, getattr(settings, name)), settings.origins.get(name, "default"))
        for name in SETTINGS
    ]


def _text(name: str, value: object) -> str:
    if name in SECRET_FIELDS:
        return _SET if value else ""
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case Mapping():
            return ",".join(f"{key}={member.name}" for key, member in value.items())
        case tuple() | frozenset():
            return ",".join(sorted(map(str, value)) if isinstance(value, frozenset) else map(str, value))
        case float():
            return f"{value:g}"
        case _:
            return str(value).encode(errors="backslashreplace").decode()  # a path need not be UTF-8
