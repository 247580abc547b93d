"""Two operators, a sidecar with an opt-out store, and a million rows, for the tests of `make bulk-check`."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import OperatorState
from tests.bulk_engines.material import Logs, ask_sidecar, write_logs
from tests.support.operator import operator_in_thread
from tests.support.optouts import opt_out
from tests.support.sidecar import Sidecar, environment, programme_settings


@dataclass(frozen=True)
class World:
    """What all engines get, and what they have to say of it.

    Attributes:
        env: with the settings that everybody knows.
        verdicts: of `/decrypt/batch`, a row for each row of the logs.
    """

    logs: Logs
    env: dict[str, str]
    verdicts: pa.Table

    def check(self, output: pa.Table) -> None:
        """The own columns are as they were, and the verdicts those of `/decrypt`."""
        assert output.schema.names == ["id", "domain", "price", "status", "uid", "established"]
        assert output.num_rows == len(self.logs.tokens)
        for name in ("status", "uid", "established"):
            assert output.column(name).combine_chunks().equals(self.verdicts.column(name).combine_chunks()), name
        assert output.column("domain").to_pylist() == self.logs.domains


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world")
    states = [OperatorState(seed=5, scope=scope) for scope in IdentityScope]
    logs = write_logs(directory / "logs", states)
    opt_out(directory / "optouts", logs.optouts)
    with ExitStack() as stack:
        operators = [stack.enter_context(operator_in_thread(state)) for state in states]
        settings = programme_settings(operators) | {"optout_store": directory / "optouts"}
        (directory / "sidecar").mkdir()
        with Sidecar(directory / "sidecar", **settings) as sidecar:
            verdicts = ask_sidecar(sidecar.wait_ready().data, logs)
        yield World(logs, environment(settings), verdicts)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"
