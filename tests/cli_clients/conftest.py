"""Commands run in this process, for speed, with a real file as stdin; real processes are in test_processes."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from bidstream_svc.cli import main
from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.cli.conftest import Outcome
from tests.support.logging_reset import logging_as_before
from tests.support.operator import operator_in_thread
from tests.support.sidecar import operator_settings

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=12)) as running:
        yield running


@pytest.fixture
def state(operator: DevOperator) -> Iterator[OperatorState]:
    yield operator.state
    operator.state.faults.clear()


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, operator: DevOperator
) -> Cli:
    """Run the command line against the operator, with something (None: nothing open) on stdin, and other settings."""

    def run(*args: str, stdin: bytes | str | TextIO | None = b"", **settings: Any) -> Outcome:
        if isinstance(stdin, str | bytes):
            (tmp_path / "stdin").write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
            with (tmp_path / "stdin").open() as file:
                return run(*args, stdin=file, **settings)
        with monkeypatch.context() as patch, logging_as_before():
            patch.setattr(sys, "argv", ["bidstream-svc", *args])
            patch.setattr(sys, "stdin", stdin)
            for name, value in (operator_settings(operator) | settings).items():
                patch.setenv(f"BIDSTREAM_{name.upper()}", str(value))
            with pytest.raises(SystemExit) as stop:
                main()
        captured = capsys.readouterr()
        status = stop.value.code or 0
        assert isinstance(status, int)
        return Outcome(status, captured.out, captured.err)

    return run
