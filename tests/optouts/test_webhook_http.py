"""The webhook on sockets: what it answers, what is stored, and its limits."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.metrics.cells import (
    OPTOUT_CONNECTIONS,
    OPTOUT_CONNECTIONS_REFUSED,
    OPTOUT_DELAY_MS,
    OPTOUTS_RECEIVED,
    RefusalReason,
)
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.server import optout_server
from tests.support.metrics_page import scrape
from tests.support.raw_http import ask, make_request
from tests.support.receiver import Client, Receiver, RunningReceiver, receiver_in_thread, webhook_path
from tests.support.sidecar import wait_until

SHORT = bytes(32)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def receiver(store: Path) -> Iterator[RunningReceiver]:
    with receiver_in_thread(store) as running:
        yield running


def received(receiver: RunningReceiver) -> dict[str, int]:
    return {result: count for result, cell in OPTOUTS_RECEIVED.items() if (count := receiver.count(cell))}


def stored(directory: Path) -> set[tuple[IdentityScope, bytes]]:
    with OptOutStore(directory) as store:
        return {(scope, optout.raw_id) for scope in IdentityScope for optout in store.iterate(scope)}


def test_an_opt_out_is_stored_and_its_repetition_is_a_duplicate(store: Path) -> None:
    with receiver_in_thread(store) as receiver, receiver.connect() as client:
        assert client.tell(SHORT) == "new"
        assert client.tell(SHORT) == "duplicate"
        posted = client.ask(webhook_path(b"\x10" + bytes(32)), {"ignored": "body"})
        assert (posted.status, posted.json) == (200, {"result": "new"})
        assert received(receiver) == {"new": 2, "duplicate": 1}
        assert sum(receiver.count(OPTOUT_DELAY_MS.first + bucket) for bucket in range(48)) == 2
        page = scrape(receiver.admin)
        assert page.value("bidstream_optouts") == 2
        assert page.value("bidstream_optouts_received_total", result="new") == 2
        assert page.value("bidstream_optout_applied_timestamp_seconds") == 1_700_000_000
    assert stored(store) == {(IdentityScope.UID2, SHORT), (IdentityScope.EUID, b"\x10" + bytes(32))}


def test_the_time_of_the_newest_opt_out_outlives_a_restart(store: Path) -> None:
    with receiver_in_thread(store) as receiver, receiver.connect() as client:
        client.tell(SHORT)
    with receiver_in_thread(store) as receiver:
        assert scrape(receiver.admin).value("bidstream_optout_applied_timestamp_seconds") == 1_700_000_000
        assert scrape(receiver.admin).value("bidstream_optouts") == 1


def test_an_opt_out_from_the_future_does_not_hide_those_behind_it(store: Path) -> None:
    with receiver_in_thread(store) as receiver, receiver.connect() as client:
        assert client.get(webhook_path(SHORT, time_s=4_102_444_800)).json == {"result": "new"}
        assert scrape(receiver.admin).value("bidstream_optout_applied_timestamp_seconds") <= time.time()


def test_an_answer_comes_after_the_commit(receiver: RunningReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on, has_begun = threading.Event(), threading.Event()
    add = receiver.service._store.add

    def held(*args: object, **options: object) -> int:
        has_begun.set()
        may_go_on.wait(20)
        return add(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(receiver.service._store, "add", held)
    with receiver.connect() as client, receiver.connect() as other:
        client.send(make_request(webhook_path(SHORT), method="GET"))
        assert has_begun.wait(20)
        # All that comes meanwhile is committed together.
        others = [bytes([number]) * 32 for number in range(1, 6)]
        for raw_id in others:
            other.send(make_request(webhook_path(raw_id), method="GET"))
        with pytest.raises(TimeoutError):
            receive_within(client, 0.2)
        may_go_on.set()
        assert client.receive().json == {"result": "new"}
        for _ in others:
            assert other.receive().json == {"result": "new"}


def receive_within(client: object, timeout_s: float) -> None:
    client.socket.settimeout(timeout_s)  # type: ignore[attr-defined]
    try:
        client.receive()  # type: ignore[attr-defined]
    finally:
        client.socket.settimeout(20)  # type: ignore[attr-defined]


def test_a_malformed_id_is_acknowledged_counted_and_kept_aside(receiver: RunningReceiver, store: Path) -> None:
    with receiver.connect() as client:
        for path in ("/optout?identity=nonsense", "/optout?timestamp=1"):
            assert client.get(path).json == {"result": "malformed"}
    assert received(receiver) == {"malformed": 2}
    kept = store / "malformed.log"
    assert kept.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [(line["problem"], line["text"]) for line in lines] == [
        ("not a raw uid", "nonsense"),
        ("no id parameter", "timestamp=1"),
    ]
    assert all(line["time"].endswith("Z") for line in lines)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/other", 404, None),
        ("GET", "/", 404, None),
        ("HEAD", "/optout", 405, "GET,POST"),
        ("PUT", "/optout", 405, "GET,POST"),
        ("POST", "/snapshot", 405, "GET"),
        ("CONNECT", "/optout", 405, "GET,POST"),
    ],
)
def test_other_requests(receiver: RunningReceiver, method: str, path: str, status: int, allow: str | None) -> None:
    with receiver.connect() as client:
        response = client.ask(path, method=method)
    assert (response.status, response.headers.get("allow")) == (status, allow)
    assert received(receiver) == {}


def test_the_offer_of_h2c_is_declined_and_the_connection_goes_on(receiver: RunningReceiver) -> None:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    with receiver.connect() as client:
        for method in ("GET", "POST"):
            response = client.ask(webhook_path(SHORT), method=method, headers=offer)
            assert response.status == 200
            assert not response.closes
        assert client.tell(SHORT) == "duplicate"


def test_a_pipeline_is_answered_in_order(receiver: RunningReceiver) -> None:
    ids = [bytes([number // 2]) * 32 for number in range(100)]
    with receiver.connect() as client:
        client.send(b"".join(make_request(webhook_path(raw_id), method="GET") for raw_id in ids))
        results = [client.receive().json["result"] for _ in ids]
    assert results == ["new", "duplicate"] * 50


def test_a_chunked_body_is_discarded(receiver: RunningReceiver) -> None:
    head = make_request(webhook_path(SHORT), headers={"Transfer-Encoding": "chunked"})
    with receiver.connect() as client:
        client.send(head + b"3\r\nabc\r\n0\r\n\r\n")
        assert client.receive().json == {"result": "new"}
        assert client.tell(SHORT) == "duplicate"


def test_a_wrong_bearer_is_refused_and_logged(tmp_path: Path, store: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("right\n")
    with receiver_in_thread(store, optout_auth_token_file=token_file) as receiver, receiver.connect() as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
            response = client.get(webhook_path(SHORT), **headers)
            assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
        assert client.get("/snapshot").status == 401
        assert received(receiver) == {"unauthorized": 3}
        assert client.tell(SHORT, Authorization="Bearer right") == "new"
        # Any name will do: the sender knows the receiver by a public one.
        assert client.tell(SHORT, Authorization="Bearer right", Host="optouts.example.com") == "duplicate"
        token_file.write_text("new\n")
        receiver.run(receiver.service.reload)
        wait_until(lambda: client.get(webhook_path(SHORT), Authorization="Bearer new").status == 200, "the new token")
        assert client.get(webhook_path(SHORT), Authorization="Bearer right").status == 401


def test_without_a_bearer_only_snapshots_need_the_name_of_this_host(receiver: RunningReceiver) -> None:
    with receiver.connect() as client:
        assert client.get(webhook_path(SHORT), Host="behind.a.proxy.example").status == 200
        assert client.get("/snapshot", Host="attacker.example").status == 400
    assert received(receiver) == {"new": 1}


def test_without_a_bearer_no_snapshot_is_given_unless_that_is_allowed(store: Path) -> None:
    with receiver_in_thread(store, allow_unauthenticated=0) as receiver, receiver.connect() as client:
        assert client.get("/snapshot").status == 404
        assert client.tell(SHORT) == "new"


def test_malformed_ids_that_cannot_be_kept_are_answered_with_503(receiver: RunningReceiver, store: Path) -> None:
    (store / "malformed.log").mkdir()
    with receiver.connect() as client:
        assert client.get("/optout?identity=x").status == 503
    assert received(receiver) == {"error": 1}


def test_a_disk_that_does_not_respond_is_answered_with_503(
    receiver: RunningReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    add = receiver.service._store.add

    def held(*args: object, **options: object) -> int:
        may_go_on.wait(30)
        return add(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(receiver.service._store, "add", held)
    monkeypatch.setattr("bidstream_svc.server.optout_process._COMMIT_TIMEOUT_S", 0.1)
    with receiver.connect() as client:
        client.send(make_request(webhook_path(SHORT), method="GET"))
        assert client.receive().status == 503
        may_go_on.set()
        # It was written after all.
        wait_until(lambda: client.tell(SHORT) == "duplicate", "the write")


def test_a_client_that_has_gone_does_not_lose_the_opt_out(receiver: RunningReceiver, store: Path) -> None:
    for number in range(20):
        with receiver.connect() as client:
            client.send(make_request(webhook_path(bytes([number]) * 32), method="GET"))
    with receiver.connect() as client:
        for number in range(20):
            wait_until(lambda raw=bytes([number]) * 32: client.tell(raw) == "duplicate", "the write")  # type: ignore[misc]


def test_silent_connections_do_not_keep_the_sender_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optout_server, "_MAX_CONNECTIONS", 4)
    with receiver_in_thread(store) as receiver, ExitStack() as stack:
        silent = [stack.enter_context(receiver.connect()) for _ in range(4)]
        wait_until(lambda: receiver.count(OPTOUT_CONNECTIONS) == 4, "the connections")
        with receiver.connect() as sender:
            assert sender.tell(SHORT) == "new"
            for _ in range(8):
                stack.enter_context(receiver.connect())
                assert sender.tell(SHORT) == "duplicate"
        assert silent[0].is_closed_by_peer()
        assert receiver.count(OPTOUT_CONNECTIONS_REFUSED[RefusalReason.MAX_CONNECTIONS]) >= 1
        refused = scrape(receiver.admin).value("bidstream_connections_refused_total", reason="max_connections")
        assert refused == receiver.count(OPTOUT_CONNECTIONS_REFUSED[RefusalReason.MAX_CONNECTIONS])


@pytest.mark.parametrize("beginning", [b"GET /opt", b"GET /optout HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_request_that_does_not_end_is_given_up(store: Path, beginning: bytes) -> None:
    with receiver_in_thread(store, request_timeout=0.1) as receiver, receiver.connect() as client:
        client.send(beginning)
        assert client.receive().status == 408
        assert client.is_closed_by_peer()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /optout HTTP/1.1\r\n\r\n", 400),
        (b"GET /optout HTTP/1.1\r\nHost: localhost\r\n" + b"X-Added-By-A-Proxy: 1\r\n" * 100 + b"\r\n", 431),
    ],
)
def test_a_request_that_cannot_be_read_is_logged(tmp_path: Path, request_bytes: bytes, status: int) -> None:
    """A sender stops at it, as at any other 4xx."""
    with Receiver(tmp_path) as receiver, Client(receiver.data) as client:
        client.send(request_bytes)
        assert client.receive().status == status
        wait_until(lambda: receiver.has_logged("opt-out request refused"), "the line")
        assert [line["status"] for line in receiver.log if line["event"] == "opt-out request refused"] == [status]


def test_draining_answers_what_has_come_and_closes(store: Path) -> None:
    with receiver_in_thread(store) as receiver, receiver.connect() as client:
        assert client.tell(SHORT) == "new"
        draining = asyncio.run_coroutine_threadsafe(receiver.service.drain(), receiver.loop)
        wait_until(lambda: ask(receiver.admin, "/readyz", method="GET").status == 503, "draining")
        closed = False
        while not closed:
            response = client.get(webhook_path(os.urandom(32)))
            assert response.status == 200
            closed = response.closes
        draining.result(20)
        assert client.is_closed_by_peer()


def test_the_health_pages(receiver: RunningReceiver) -> None:
    for path in ("/livez", "/startupz", "/readyz"):
        assert ask(receiver.admin, path, method="GET").status == 200
    with receiver.connect() as client:
        client.tell(SHORT)
    info = ask(receiver.admin, "/info", method="GET").json
    assert info["optouts"] == {
        "count": 1,
        "position": None,
        "applied": "2023-11-14T22:13:20Z",
        "stream": None,
        "last_contact": None,
        "stale": False,
    }
