"""Commands run in this process, for speed; what only a real process can show is in test_processes."""

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from bidstream_svc.cli import main
from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.logging_reset import logging_as_before
from tests.support.operator import operator_in_thread
from tests.support.sidecar import operator_settings


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


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line with settings in the environment and text on stdin."""

    def run(*args: str, stdin: str = "", **settings: Any) -> Outcome:
        with monkeypatch.context() as patch, logging_as_before():
            patch.setattr(sys, "argv", ["bidstream-svc", *args])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in settings.items():
                patch.setenv(f"BIDSTREAM_{name.upper()}", str(value))
            with pytest.raises(SystemExit) as stop:
                main()
        captured = capsys.readouterr()
        status = stop.value.code or 0
        assert isinstance(status, int)
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=11)) as running:
        yield running


@pytest.fixture
def settings(operator: DevOperator) -> dict[str, str]:
    return operator_settings(operator)
