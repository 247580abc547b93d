"""The console of several workers."""

from pathlib import Path

from bidstream_svc.devoperator import OperatorState
from tests.support.operator import operator_in_thread
from tests.support.raw_http import ask
from tests.support.sidecar import Sidecar, operator_settings, wait_until


def test_any_worker_tells_of_all(tmp_path: Path) -> None:
    state = OperatorState(seed=1)
    with (
        operator_in_thread(state) as operator,
        Sidecar(tmp_path, workers=2, console="1", **operator_settings(operator)) as sidecar,
    ):
        sidecar.wait_ready()
        wait_until(
            lambda: all(
                worker["accepting"] for worker in ask(sidecar.admin, "/console/state", method="GET").json["workers"]
            ),
            "both workers",
        )
        token = state.mint_token()
        for _ in range(20):
            assert ask(sidecar.data, "/decrypt", {"token": token}).json["status"] == "SUCCESS"
        pids, answering = set(), set()
        for _ in range(20):
            told = ask(sidecar.admin, "/console/state", method="GET").json
            assert told["history"]["totals"]["statuses"] == {"SUCCESS": 20}
            assert len(told["workers"]) == 2
            pids |= {worker["pid"] for worker in told["workers"]}
            (answers,) = (worker["pid"] for worker in told["workers"] if worker["answers"])
            assert answers == told["pid"]
            answering.add(answers)
        assert len(pids) == 2
        assert answering <= pids
        assert sidecar.process.pid not in pids
