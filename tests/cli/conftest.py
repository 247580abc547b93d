"""Commands with settings in the environment and text on stdin."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.support.cli import Cli, Outcome, run_command
from tests.support.operator import operator_in_thread
from tests.support.sidecar import operator_settings


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line."""

    def run(*args: str, stdin: str | bytes | None = "", **settings: Any) -> Outcome:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        opened = None if data is None else io.TextIOWrapper(io.BytesIO(data))
        return run_command(monkeypatch, capsys, *args, stdin=opened, settings=settings)

    return run


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=11)) as running:
        yield running


@pytest.fixture
def settings(operator: DevOperator) -> dict[str, str]:
    return operator_settings(operator)


@pytest.fixture
def state(operator: DevOperator) -> OperatorState:
    return operator.state


@pytest.fixture
def key_file(state: OperatorState, tmp_path: Path) -> str:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(bidstream_keys(state, {})))
    return str(path)
