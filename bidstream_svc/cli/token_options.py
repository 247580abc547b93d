"""Options of commands that judge tokens, and the programmes that they make of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from bidstream_svc.cli.error_log import start_error_log
from bidstream_svc.cli.inputs import INPUT_FILE, read_any_text
from bidstream_svc.cli.options import OPERATOR_FIELDS, provided, setting_options
from bidstream_svc.config import SETTINGS, Settings, env_name, load_settings
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.programmes import Programme
from bidstream_svc.keystore.key_files import read_key_files

if TYPE_CHECKING:
    from bidstream_svc.optouts.optout_reader import OptOutReader

_Command = TypeVar("_Command", bound=Callable[..., Any])

# What counts where keys come from files, too.
_SETTINGS_WITH_KEY_FILES = {"eid_sources", "optout_store", "optout_stream", "optout_when_stale"}


class Judges(NamedTuple):
    """What judges tokens.

    Attributes:
        settings: those in force.
        snapshots: the keys of each programme.
        optouts: the opt-out store, if there is one.
    """

    settings: Settings
    snapshots: list[KeySnapshot]
    optouts: "OptOutReader | None"

    @property
    def programmes(self) -> list[Programme]:
        """As `bind_programmes` takes them."""
        check_optout = None if self.optouts is None else self.optouts.check
        return [Programme(keys.scope, keys, check_optout=check_optout) for keys in self.snapshots]


def token_options(command: _Command) -> _Command:
    """Add `--keys`, `--scope`, `--optouts` and the settings that `open_judges` reads."""
    for option in (
        setting_options(*OPERATOR_FIELDS, "eid_sources"),
        click.option(
            "--optouts",
            "optout_store",
            metavar="DIR",
            help=f"opt-out store, whose raw uids are not printed [{env_name('optout_store')}]",
        ),
        click.option(
            "--scope",
            type=click.Choice([scope.name for scope in IdentityScope]),
            help="the programme of version 2 tokens",
        ),
        click.option(
            "--keys",
            type=INPUT_FILE,
            multiple=True,
            help="file with a key response in JSON, or directory of such files (*.json), instead of a call to the "
            "operator; several are merged",
        ),
    ):
        command = option(command)
    return command


def scope_of(name: str | None) -> IdentityScope | None:
    """Return the programme that `--scope` names."""
    return None if name is None else IdentityScope[name]


def open_judges(keys: tuple[Path, ...], flags: dict[str, Any]) -> Judges:
    """Read the keys from files, or fetch them from the operators of the settings, and open the opt-out store.

    Raises:
        BidstreamError: settings, files or a store cannot be used, or a call failed.
    """
    given = provided(flags)
    if keys:  # the settings of operators are of no use
        settings = load_settings(**given | dict.fromkeys(SETTINGS.keys() - _SETTINGS_WITH_KEY_FILES))
        snapshots = read_key_files(keys, read_any_text)
    else:
        settings = load_settings(**given)
        snapshots = _fetch_keys(settings)
    return Judges(settings, snapshots, _open_store(settings))


# What these import takes longer than a short log, and a run with key files and without opt-outs does without.


def _fetch_keys(settings: Settings) -> list[KeySnapshot]:
    from bidstream_svc.keystore.key_source import fetch_once  # noqa: PLC0415

    start_error_log()
    try:
        return [fetch_once(operator) for operator in settings.operators]
    except ConfigurationError as error:
        error.add_note("without --keys")  # a reader without settings learns of the other way
        raise


def _open_store(settings: Settings) -> "OptOutReader | None":
    if settings.optout_store is None:
        return None
    from bidstream_svc.optouts.optout_reader import OptOutReader  # noqa: PLC0415

    start_error_log()
    return OptOutReader(settings.optout_store, withholds=settings.optout_when_stale == "withhold")
