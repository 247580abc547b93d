"""`serve` with an opt-out store: the process of the store beside the workers."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pybase64
import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.optouts.optout_store import OptOutStore
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.processes import children
from tests.support.raw_http import Connection, ask
from tests.support.receiver import Client, webhook_address, webhook_path
from tests.support.sidecar import Sidecar, operator_settings, wait_until

MANY = 24  # connections, of which both workers get some


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=15)) as running:
        yield running


@contextmanager
def sidecar_of(directory: Path, operator: DevOperator, workers: int = 2, **settings: Any) -> Iterator[Sidecar]:
    options: dict[str, Any] = {"workers": workers, "optout_store": directory / "store", "optout_listen": "127.0.0.1:0"}
    with Sidecar(directory, **options | operator_settings(operator) | settings) as sidecar:
        wait_until(lambda: sidecar.times_loaded(from_cache=False) == workers, "all workers to have keys")
        wait_until(lambda: sidecar.has_logged("opt-out store open"), "the store")
        yield sidecar


def store_pid(sidecar: Sidecar) -> int:
    """The process of the store: it alone has a lower priority."""
    (found,) = [pid for pid in children(sidecar.process.pid) if os.getpriority(os.PRIO_PROCESS, pid) > 0]
    return found


def raw_id_of(operator: DevOperator, person: str) -> bytes:
    return pybase64.b64decode(operator.state.raw_uid(person))


def tell(sidecar: Sidecar, raw_id: bytes, path: str = "/optout") -> str:
    """Send an opt-out as the programme does, again and again until it is acknowledged."""
    results: list[str] = []

    def is_acknowledged() -> bool:
        with suppress(OSError, EOFError), Client(webhook_address(sidecar)) as client:
            response = client.get(webhook_path(raw_id, path=path))
            if response.status == 200:
                results.append(response.json["result"])
        return bool(results)

    wait_until(is_acknowledged, "the webhook")
    return results[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_acknowledged_opt_out_counts_in_every_worker(tmp_path: Path, operator: DevOperator, workers: int) -> None:
    person, other = "out@example.com", "in@example.com"
    token, other_token = operator.state.mint_token(identity=person), operator.state.mint_token(identity=other)
    with sidecar_of(tmp_path, operator, workers) as sidecar:
        assert len(children(sidecar.process.pid)) == workers + 1
        clients = [Connection(sidecar.data) for _ in range(MANY)]
        try:
            for client in clients:
                assert client.ask("/decrypt", {"token": token}).json["status"] == "SUCCESS"
            assert tell(sidecar, raw_id_of(operator, person)) == "new"
            for client in clients:
                answer = client.ask("/decrypt", {"token": token}).json
                assert answer == {"status": "USER_OPTED_OUT", "uid": None, "established": None}
                assert client.ask("/decrypt", {"token": other_token}).json["status"] == "SUCCESS"
        finally:
            for client in clients:
                client.socket.close()
        page = scrape(sidecar.admin)
        assert page.value("bidstream_optouts_received_total", result="new") == 1
        assert page.value("bidstream_optouts") == 1
        assert ask(sidecar.admin, "/info", method="GET").json["optouts"]["count"] == 1
        assert sidecar.stop() == 0
    # Beside the store's own files, nothing holds the id.
    assert operator.state.raw_uid(person) not in sidecar.stderr


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path, operator: DevOperator) -> None:
    token = operator.state.mint_token(identity="in@example.com")
    told: list[bytes] = []
    with sidecar_of(tmp_path, operator) as sidecar, Connection(sidecar.data) as bidder:
        for times in range(1, 6):
            for _ in range(20 * times):
                raw_id = os.urandom(32)
                with suppress(OSError, EOFError), Client(webhook_address(sidecar), timeout_s=20) as client:
                    if client.get(webhook_path(raw_id, path="/optout/uid2")).status == 200:
                        told.append(raw_id)
            victim = store_pid(sidecar)
            with suppress(OSError, EOFError), Client(webhook_address(sidecar)) as client:
                client.send(b"".join(request_of(os.urandom(32)) for _ in range(50)))
                client.receive()
                os.kill(victim, signal.SIGKILL)
            assert bidder.ask("/decrypt", {"token": token}).json["status"] == "SUCCESS"
            wait_until(lambda n=times: sidecar.times_logged("opt-out store open") == n + 1, "the successor")  # type: ignore[misc]
        assert tell(sidecar, told[0]) == "duplicate"
        page = scrape(sidecar.admin)
        assert page.value("bidstream_worker_restarts_total") == 5
        assert page.value("bidstream_optouts_received_total", result="new") >= len(told)
        assert [line["worker"] for line in sidecar.log if line["event"] == "worker ended"] == ["optouts"] * 5
        assert sidecar.stop() == 0
    with OptOutStore(tmp_path / "store") as store:
        assert len(told) > 100
        assert all(store.contains(IdentityScope.UID2, raw_id) for raw_id in told)


def request_of(raw_id: bytes) -> bytes:
    return f"GET {webhook_path(raw_id)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_a_process_that_hangs_is_replaced(tmp_path: Path, operator: DevOperator) -> None:
    with sidecar_of(tmp_path, operator, hang_timeout=2) as sidecar:
        assert tell(sidecar, bytes(32)) == "new"
        os.kill(store_pid(sidecar), signal.SIGSTOP)
        wait_until(lambda: sidecar.times_logged("opt-out store open") == 2, "the successor")
        assert tell(sidecar, bytes(32)) == "duplicate"
        (hung,) = [line for line in sidecar.log if line["event"] == "worker hung"]
        assert hung["worker"] == "optouts"
        assert scrape(sidecar.admin).value("bidstream_workers_hung_total") == 1


def test_a_process_that_cannot_start_is_tried_for_ever_and_bidders_are_served(
    tmp_path: Path, operator: DevOperator
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret")
    token = operator.state.mint_token(identity="in@example.com")
    with sidecar_of(tmp_path, operator, optout_auth_token_file=token_file) as sidecar:
        token_file.unlink()
        os.kill(store_pid(sidecar), signal.SIGKILL)
        # More often than any worker may fail to start.
        wait_until(lambda: sidecar.times_logged("worker failed") >= 6, "failed starts")
        assert ask(sidecar.data, "/decrypt", {"token": token}).json["status"] == "SUCCESS"
        assert ask(sidecar.admin, "/readyz", method="GET").status == 200
        token_file.write_text("secret")
        wait_until(lambda: sidecar.times_logged("opt-out store open") == 2, "the successor")
        assert sidecar.stop() == 0


def test_sigterm_ends_it_after_its_answers(tmp_path: Path, operator: DevOperator) -> None:
    with sidecar_of(tmp_path, operator) as sidecar:
        with Client(webhook_address(sidecar)) as client:
            client.send(b"".join(request_of(bytes([number]) * 32) for number in range(50)))
            sidecar.signal(signal.SIGTERM)
            # Once it drains, an answer closes the connection, and the sender repeats what has none.
            for _ in range(50):
                answer = client.receive()
                assert answer.json == {"result": "new"}
                if answer.headers.get("connection") == "close":
                    break
        assert sidecar.process.wait(40) == 0
        assert sidecar.has_logged("opt-out store closed")
        assert not sidecar.has_logged("worker failed")


def test_sighup_reads_its_files_again(tmp_path: Path, operator: DevOperator) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("old")
    with (
        sidecar_of(tmp_path, operator, optout_auth_token_file=token_file) as sidecar,
        Client(webhook_address(sidecar)) as client,
    ):
        assert client.tell(bytes(32), Authorization="Bearer old") == "new"
        token_file.write_text("new")
        sidecar.signal(signal.SIGHUP)
        wait_until(
            lambda: client.get(webhook_path(bytes(32)), Authorization="Bearer new").status == 200, "the new token"
        )


def test_a_damaged_store_stops_the_start_with_one_line(tmp_path: Path, operator: DevOperator) -> None:
    store = tmp_path / "store"
    OptOutStore(store).close()
    (store / "data.mdb").write_bytes(b"damaged" * 4096)
    sidecar = Sidecar(tmp_path, workers=2, optout_store=store, **operator_settings(operator))
    assert sidecar.process.wait(40) == 1
    (line,) = sidecar.stderr.splitlines()
    assert line.startswith(f"bidstream-svc: opt-out store {store}: ")


def test_the_webhook_on_a_unix_socket_that_is_bound_again(tmp_path: Path, operator: DevOperator) -> None:
    path = tmp_path / "optouts.sock"
    with sidecar_of(tmp_path, operator, optout_listen=f"unix:{path}") as sidecar:
        assert tell(sidecar, bytes(32)) == "new"
        path.unlink()
        wait_until(path.exists, "the socket to be bound again")
        assert tell(sidecar, bytes(32)) == "duplicate"
        assert sidecar.stop() == 0
    assert not path.exists()


def test_duplicates_by_the_thousand_do_not_keep_bidders_waiting(tmp_path: Path, operator: DevOperator) -> None:
    token = operator.state.mint_token(identity="in@example.com")
    requests = b"".join(request_of(bytes([number]) * 32) for number in range(100))
    with sidecar_of(tmp_path, operator) as sidecar, Connection(sidecar.data) as bidder:
        with Client(webhook_address(sidecar)) as client:
            for _ in range(20):
                client.send(requests)
                for _ in range(10):
                    assert bidder.ask("/decrypt", {"token": token}).json["status"] == "SUCCESS"
                for _ in range(100):
                    assert client.receive().status == 200
        page = scrape(sidecar.admin)
        assert page.value("bidstream_optouts_received_total", result="new") == 100
        assert page.value("bidstream_optouts_received_total", result="duplicate") == 1900


def test_a_service_without_a_store_does_not_load_what_is_for_one(tmp_path: Path, operator: DevOperator) -> None:
    with Sidecar(tmp_path, workers=2, **operator_settings(operator)) as sidecar:
        sidecar.wait_ready()
        for pid in (sidecar.process.pid, *children(sidecar.process.pid)):
            assert "lmdb" not in Path(f"/proc/{pid}/maps").read_text()
