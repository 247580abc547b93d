"""The commands of a group. A command's module is imported on first use, so that each command starts fast."""

from collections import UserDict
from collections.abc import Iterator
from importlib import import_module

import click


class LazyCommands(UserDict[str, click.Command]):
    """Commands by name, as click.Group takes them.

    Args:
        places: for each name, the module in `bidstream_svc.cli` and the attribute: `check_command.check`.
    """

    def __init__(self, places: dict[str, str]) -> None:
        super().__init__()
        self._places = places

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = self._places[name].partition(".")
        command: click.Command = getattr(import_module(f"bidstream_svc.cli.{module}"), attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places
