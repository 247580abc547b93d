"""A store that cannot tell who has opted out: no raw uid is answered."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.optouts.control_words import ControlWords
from tests.optouts.cases import bid_request
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.optouts import opt_out
from tests.support.processes import children
from tests.support.raw_http import Connection, ask
from tests.support.sidecar import PROGRAM, Sidecar, environment, operator_settings, service_in_thread, wait_until

UID2 = IdentityScope.UID2
NOT_SYNCED = {"status": "OPTOUTS_NOT_SYNCED", "uid": None, "established": None}


@pytest.fixture
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=7)) as running:
        yield running


@pytest.fixture
def store(operator: DevOperator, tmp_path: Path) -> Path:
    directory = tmp_path / "store"
    opt_out(directory, [(UID2, operator.state.raw_uid("out@example.com"))])
    return directory


def status_of(address: str, token: str) -> str:
    status: str = ask(address, "/decrypt", {"token": token}).json["status"]
    return status


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_is_gone_and_comes_back(operator: DevOperator, store: Path, tmp_path: Path, workers: int) -> None:
    state = operator.state
    good, out = state.mint_token(), state.mint_token(identity="out@example.com")
    expired, marked = state.mint_token(lifetime_s=-1), state.mint_token(opted_out=True)
    settings = operator_settings(operator) | {"optout_store": store, "workers": workers}
    with Sidecar(tmp_path, **settings) as sidecar, Connection(sidecar.data) as connection:
        wait_until(lambda: sidecar.times_logged("keys loaded") == workers, "keys")
        assert [status_of(sidecar.data, token) for token in (good, out)] == ["SUCCESS", "USER_OPTED_OUT"]

        data, aside = store / "data.mdb", store / "aside"
        data.rename(aside)
        wait_until(lambda: sidecar.times_logged("opt-out store unusable") == workers, "the log")
        batch = {"requests": [{"token": token} for token in (good, out, expired, marked)]}
        assert connection.ask("/decrypt", batch["requests"][0]).json == NOT_SYNCED
        results = connection.ask("/decrypt/batch", batch).json["results"]
        assert results[:2] == [NOT_SYNCED, NOT_SYNCED]
        assert [result["status"] for result in results[2:]] == ["EXPIRED_TOKEN", "USER_OPTED_OUT"]
        body = bid_request(None, (UID2, good))
        assert connection.ask("/openrtb", body).json["ids"][0]["status"] == "OPTOUTS_NOT_SYNCED"
        rewritten = connection.ask("/openrtb/rewrite", body)
        assert rewritten.json["user"]["eids"] == []
        assert rewritten.headers["bidstream-statuses"] == "OPTOUTS_NOT_SYNCED"
        failures = scrape(sidecar.admin)
        assert failures.total("bidstream_decrypt_failures_total", reason="optouts_not_synced") == 5
        assert failures.total("bidstream_decryptions_total", status="OPTOUTS_NOT_SYNCED", scope="UID2") == 5

        if workers > 1:
            for worker in children(sidecar.process.pid):
                os.kill(worker, signal.SIGKILL)
            wait_until(lambda: scrape(sidecar.admin).value("bidstream_worker_restarts_total") >= workers, "restarts")
            wait_until(lambda: sidecar.times_logged("listening") == 2 * workers, "the new workers")
            assert {status_of(sidecar.data, good) for _ in range(8)} == {"OPTOUTS_NOT_SYNCED"}

        aside.rename(data)
        wait_until(lambda: {status_of(sidecar.data, good) for _ in range(8)} == {"SUCCESS"}, "the store")
        assert status_of(sidecar.data, out) == "USER_OPTED_OUT"


def test_one_that_is_damaged_at_the_start(operator: DevOperator, store: Path) -> None:
    (store / "data.mdb").write_bytes(b"not LMDB" * 1024)
    settings = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "optout_store": store}
    environ = environment(operator_settings(operator) | settings)
    done = subprocess.run([*PROGRAM, "serve"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"opt-out store {store}: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_one_that_the_command_line_cannot_open(operator: DevOperator, tmp_path: Path) -> None:
    command = [*PROGRAM, "decrypt", "--optouts", str(tmp_path / "nowhere"), operator.state.mint_token()]
    environ = environment(operator_settings(operator))
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "nowhere") in line


@pytest.mark.parametrize("when_stale", ["serve", "withhold"])
def test_one_that_is_stale(operator: DevOperator, store: Path, when_stale: str) -> None:
    state = operator.state
    tokens = [state.mint_token(version, identity=f"{version}@example.com") for version in (2, 3, 4)]
    control = ControlWords(store, create=False)
    settings = operator_settings(operator) | {"optout_store": store, "optout_stream": "redis://127.0.0.1:9/0"}
    with service_in_thread(**settings, optout_when_stale=when_stale) as service:

        def statuses() -> set[str]:
            found = {service.decrypt(token)["status"] for token in tokens}
            batch = service.ask("/decrypt/batch", {"requests": [{"token": token} for token in tokens]})
            found |= {result["status"] for result in batch.json["results"]}
            bid = service.ask("/openrtb", bid_request(None, *[(UID2, token) for token in tokens]))
            return found | {each["status"] for each in bid.json["ids"]}

        for _ in range(2):
            control.fresh_until_ms = state.now_ms() - 1
            assert statuses() == {"OPTOUTS_NOT_SYNCED" if when_stale == "withhold" else "SUCCESS"}
            out = state.mint_token(identity="out@example.com")
            assert service.decrypt(out)["status"] == "USER_OPTED_OUT"
            control.fresh_until_ms = state.now_ms() + 3_600_000
            assert statuses() == {"SUCCESS"}


def test_a_new_one_of_a_fleet_makes_a_sidecar_ready_when_it_has_been_synced(operator: DevOperator, store: Path) -> None:
    control = ControlWords(store, create=False)
    control.fresh_until_ms = 0
    settings = operator_settings(operator) | {"optout_store": store, "optout_stream": "redis://127.0.0.1:9/0"}
    with service_in_thread(**settings) as service:
        answer = service.get("/readyz")
        assert (answer.status, answer.json["reason"]) == (503, "the opt-out store is new and has not been synced yet")
        assert service.get("/startupz").status == 200
        control.fresh_until_ms = operator.state.now_ms() - 1  # stale, which all hosts may be at once
        assert service.get("/readyz").status == 200
