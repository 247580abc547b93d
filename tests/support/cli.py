"""Runs the command line in this process, for speed; test_processes covers real processes."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TextIO

import pytest

from bidstream_svc.cli.commands import main
from tests.support.logging_reset import logging_as_before


class Outcome(NamedTuple):
    """What became of a command."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr of a command that could not do what it was asked for."""
        assert self.out == ""
        assert self.err.count("\n") == 1
        assert self.err.startswith("bidstream-svc: ")
        return self.err.removeprefix("bidstream-svc: ").removesuffix("\n")


Cli = Callable[..., Outcome]


def run_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *args: str,
    stdin: TextIO | None,
    settings: Mapping[str, Any],
) -> Outcome:
    """Run `bidstream-svc ARGS` with settings in the environment; None for a stdin that is not open."""
    with monkeypatch.context() as patch, logging_as_before():
        patch.setattr(sys, "argv", ["bidstream-svc", *args])
        patch.setattr(sys, "stdin", stdin)
        for name, value in settings.items():
            patch.setenv(f"BIDSTREAM_{name.upper()}", str(value))
        with pytest.raises(SystemExit) as stop:
            main()
    captured = capsys.readouterr()
    status = stop.value.code or 0
    assert isinstance(status, int)
    return Outcome(status, captured.out, captured.err)
