"""Commands that call the operator, with a real file as stdin."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.cli import Cli, Outcome, run_command
from tests.support.operator import operator_in_thread
from tests.support.sidecar import operator_settings


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
    """Run the command line against the operator, with this stdin (None: closed) and further settings."""

    def run(*args: str, stdin: bytes | str | TextIO | None = b"", **settings: Any) -> Outcome:
        if isinstance(stdin, str | bytes):
            (tmp_path / "stdin").write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
            with (tmp_path / "stdin").open() as file:
                return run(*args, stdin=file, **settings)
        settings = operator_settings(operator) | settings
        return run_command(monkeypatch, capsys, *args, stdin=stdin, settings=settings)

    return run
