"""`GET /failures` of two workers: either answers for both, and for one that was killed."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.processes import children, sockets_of
from tests.support.raw_http import Connection, ask
from tests.support.sidecar import Sidecar, operator_settings, wait_until

WORKERS = 2
CONNECTIONS = 32  # that all go to the same worker does not happen


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=41)) as running:
        yield running


@pytest.fixture
def sidecar(operator: DevOperator, tmp_path: Path) -> Iterator[Sidecar]:
    with Sidecar(tmp_path, workers=WORKERS, **operator_settings(operator)) as running:
        wait_until(lambda: running.times_loaded(from_cache=False) == WORKERS, "all workers to have keys")
        yield running


def failures(sidecar: Sidecar) -> dict[str, Any]:
    answer = ask(sidecar.admin, "/failures", method="GET")
    assert answer.status == 200
    found: dict[str, Any] = answer.json
    return found


def send(sidecar: Sidecar, token: str) -> None:
    """A failure on each of many connections, which both workers get some of."""
    idle = [sockets_of(worker) for worker in children(sidecar.process.pid)]
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            answer = stack.enter_context(Connection(sidecar.data)).ask(
                "/decrypt", {"token": token, "domain": "a.example"}
            )
            assert answer.json["status"] == "EXPIRED_TOKEN"
        assert all(
            sockets_of(worker) > before for worker, before in zip(children(sidecar.process.pid), idle, strict=True)
        )


def wait_for_failures(sidecar: Sidecar, failing: int) -> None:
    wait_until(lambda: failures(sidecar)["failures"] == failing, f"{failing} failures")


def test_every_worker_answers_for_all_also_when_one_was_killed(sidecar: Sidecar, operator: DevOperator) -> None:
    token = operator.state.mint_token(lifetime_s=-60, site_id=102)
    send(sidecar, token)
    wait_for_failures(sidecar, CONNECTIONS)
    for killed, victim in enumerate(children(sidecar.process.pid), 1):
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in children(sidecar.process.pid), "the end of the victim")  # noqa: B023 - at once
        wait_until(lambda: sidecar.times_logged("listening") == WORKERS + killed, "its successor")  # noqa: B023
        for _ in range(8):  # each goes to one of the workers
            assert failures(sidecar)["failures"] == killed * CONNECTIONS
        send(sidecar, token)
        wait_for_failures(sidecar, (killed + 1) * CONNECTIONS)
    answer = failures(sidecar)
    (site,) = answer["sites"]
    assert (site["site_id"], site["share"], site["name"]) == (102, 1.0, "a.example")
    assert scrape(sidecar.admin).value("bidstream_decrypt_failures_total", reason="expired") == 3 * CONNECTIONS
