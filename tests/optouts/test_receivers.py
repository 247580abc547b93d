"""Receivers as processes, with a real Redis between them."""

import base64
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.follower import NOTE
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import SnapshotReader
from bidstream_svc.optouts.stream_entries import Bearings, encode_bearings
from tests.faults.optout_fleet import free_port
from tests.support.metrics_page import scrape
from tests.support.raw_http import ask
from tests.support.receiver import Client, Receiver, webhook_path
from tests.support.redis_server import PROGRAM as REDIS_SERVER
from tests.support.redis_server import RedisServer
from tests.support.sidecar import PROGRAM, wait_until

pytestmark = pytest.mark.needs_tools(REDIS_SERVER)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


class Fleet:
    """Receivers that share a stream, each with a directory of its own."""

    def __init__(self, directory: Path, stack: ExitStack, redis: RedisServer) -> None:
        self._directory, self._stack, self._redis = directory, stack, redis

    def start(self, name: str, **settings: Any) -> Receiver:
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        return self._stack.enter_context(Receiver(directory, optout_stream=self._redis.url, **settings))


@pytest.fixture
def fleet(tmp_path: Path, redis: RedisServer) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack, redis)


def tell(receiver: Receiver, count: int) -> list[bytes]:
    ids = [os.urandom(32) for _ in range(count)]
    with Client(receiver.data) as client:
        for raw_id in ids:
            assert client.tell(raw_id) == "new"
    return ids


def count(receiver: Receiver) -> float:
    return scrape(receiver.admin).value("bidstream_optouts")


def test_what_one_receiver_acknowledges_reaches_the_other(fleet: Fleet) -> None:
    one, other = fleet.start("one"), fleet.start("other")
    ids = tell(one, 20)
    wait_until(lambda: count(other) == 20, "the stream")
    with Client(other.data) as client:
        assert [client.tell(raw_id) for raw_id in ids] == ["duplicate"] * 20
    page = scrape(other.admin)
    assert page.value("bidstream_optout_stream_connected") == 1
    assert page.value("bidstream_optout_stream_last_contact_timestamp_seconds") > 1e9
    assert page.value("bidstream_optout_applied_timestamp_seconds") == 1_700_000_000
    wait_until(lambda: info(one)["position"] == info(other)["position"] is not None, "both to be level")
    assert info(other)["stream"] == {"connected": True, "owed": 0, "gap": False}
    assert not info(other)["stale"]
    assert one.stop() == other.stop() == 0


def info(receiver: Receiver) -> Any:
    return ask(receiver.admin, "/info", method="GET").json["optouts"]


def test_a_receiver_without_its_stream_receives_and_catches_up(fleet: Fleet, redis: RedisServer) -> None:
    one, other = fleet.start("one"), fleet.start("other")
    redis.kill()
    wait_until(lambda: scrape(one.admin).value("bidstream_optout_stream_connected") == 0, "the loss to be seen")
    tell(one, 10)
    assert ask(one.admin, "/readyz", method="GET").status == 200
    one.signal(signal.SIGKILL)
    one.process.wait(40)
    redis.start()
    again = fleet.start("one")
    wait_until(lambda: count(other) == 10, "what was owed")
    assert count(again) == 10


def test_a_receiver_that_can_read_the_stream_and_not_append_says_so(fleet: Fleet, redis: RedisServer) -> None:
    one, other = fleet.start("one"), fleet.start("other")
    tell(one, 1)
    wait_until(lambda: count(other) == 1, "the stream")
    wait_until(lambda: scrape(one.admin).value("bidstream_optout_stream_connected") == 1, "the connection")
    with redis.client() as client_of_redis:
        client_of_redis.config_set("maxmemory", "1")
        tell(one, 1)
        wait_until(lambda: scrape(one.admin).value("bidstream_optout_stream_connected") == 0, "the refusal to be seen")
        assert info(one)["stream"] == {"connected": False, "gap": False, "owed": 1}
        assert scrape(other.admin).value("bidstream_optout_stream_connected") == 1
        client_of_redis.config_set("maxmemory", "0")
    wait_until(lambda: count(other) == 2, "what was owed")
    wait_until(lambda: info(one)["stream"] == {"connected": True, "gap": False, "owed": 0}, "the connection")


def test_a_new_host_begins_with_a_snapshot(fleet: Fleet, redis: RedisServer, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret")
    one = fleet.start("one", optout_auth_token_file=token_file)
    with Client(one.data) as client:
        for number in range(50):
            assert client.tell(bytes([number]) * 32, Authorization="Bearer secret") == "new"
        assert client.get("/snapshot").status == 401
        wait_until(lambda: client.get("/snapshot", Authorization="Bearer secret").status == 200, "a snapshot")
        response = client.get("/snapshot", Authorization="Bearer secret")
        assert response.headers["content-type"] == "application/octet-stream"
        reader = SnapshotReader()
        assert sum(len(records.records) for records in reader.feed(response.body)) == 50
        assert reader.finish().count == 50
        assert client.get("/snapshot", Authorization="Bearer secret").status == 200  # the connection goes on
    wait_until(lambda: info(one)["stream"]["owed"] == 0 and info(one)["position"] is not None, "the stream")
    with redis.client() as client_of_redis:
        client_of_redis.xtrim("bidstream:optouts", maxlen=1, approximate=False)
    url = f"http://{one.data}/snapshot"
    new = fleet.start("new", optout_auth_token_file=token_file, optout_snapshot_url=url)
    wait_until(lambda: count(new) == 50, "the snapshot")


def test_what_a_store_has_from_elsewhere_reaches_the_others(fleet: Fleet, tmp_path: Path) -> None:
    before, later = [OptOut(IdentityScope.UID2, bytes([number]) * 32, 1) for number in range(2)]
    with OptOutStore(tmp_path / "one" / "store") as store:
        store.add([before])  # by an import, or a backup
    one, other = fleet.start("one"), fleet.start("other")
    wait_until(lambda: count(other) == 1, "what the store had")
    subprocess.run(
        [*PROGRAM, "optouts", "import", "-", "--optout-store", str(tmp_path / "one" / "store")],
        input=base64.b64encode(later.raw_id),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wait_until(lambda: count(other) == 2, "what was imported")
    assert count(one) == 2


def test_receivers_that_all_miss_opt_outs_give_each_other_what_they_have(fleet: Fleet, tmp_path: Path) -> None:
    for number, name in enumerate(("one", "other")):
        with OptOutStore(tmp_path / name / "store") as store:
            store.join_stream()
            store.add([OptOut(IdentityScope.EUID, bytes([0x10 + number]) * 33, 1)])
            store.write_notes({NOTE: encode_bearings(Bearings(gap="a test"))})
    ports = [free_port(), free_port()]
    receivers = [
        fleet.start(
            name,
            optout_listen=f"127.0.0.1:{ports[place]}",
            optout_snapshot_url=f"http://127.0.0.1:{ports[1 - place]}/snapshot",
        )
        for place, name in enumerate(("one", "other"))
    ]
    for receiver in receivers:
        wait_until(lambda receiver=receiver: count(receiver) == 2, "the other's opt-outs")  # type: ignore[misc]
        wait_until(lambda receiver=receiver: receiver.has_logged("opt-outs are complete again"), "no gap")  # type: ignore[misc]


def test_a_receiver_does_not_complete_itself(fleet: Fleet, tmp_path: Path) -> None:
    with OptOutStore(tmp_path / "one" / "store") as store:
        store.join_stream()
        store.write_notes({NOTE: encode_bearings(Bearings(gap="a test"))})
    port = free_port()
    url = f"http://127.0.0.1:{port}/snapshot"
    one = fleet.start("one", optout_listen=f"127.0.0.1:{port}", optout_snapshot_url=url)
    wait_until(lambda: one.has_logged("no snapshot of opt-outs; it is tried again"), "the refusal")
    assert not one.has_logged("opt-outs are complete again")
    wait_until(lambda: info(one)["stream"]["gap"], "the gap to be told")
    ran = subprocess.run(
        [*PROGRAM, "optouts", "stat", "--fleet", f"http://{one.admin}"], check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (1, "bidstream-svc: 1 of 1 hosts have problems: 1 stale, 1 gap\n")


def test_a_snapshot_is_refused_while_opt_outs_may_be_missing(fleet: Fleet, redis: RedisServer) -> None:
    one = fleet.start("one")
    for sequence in (1, 2):
        tell(one, 1)
        wait_until(lambda: (info(one)["position"] or {"sequence": 0})["sequence"] >= sequence, "the stream")  # noqa: B023
    with redis.client() as client_of_redis:
        client_of_redis.xtrim("bidstream:optouts", maxlen=1, approximate=False)
        client_of_redis.xadd("bidstream:optouts", {"other": "entry"})
    one.stop()
    new = fleet.start("new")
    wait_until(
        lambda: new.has_logged("opt-outs may be missing from the store until a snapshot has been merged"), "a gap"
    )
    with Client(new.data) as client:
        response = client.get("/snapshot")
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        assert client.tell(bytes(32)) == "new"


def test_a_client_that_reads_slowly_gets_the_whole_snapshot(tmp_path: Path) -> None:
    with Receiver(tmp_path, idle_timeout=2) as receiver:
        tell(receiver, 300)
        with Client(receiver.data) as client:
            client.send(b"GET /snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30)
            for _ in range(30):
                reader = SnapshotReader()
                reader.feed(client.receive().body)
                assert reader.finish().count == 300
        assert receiver.stop() == 0


def test_a_disk_that_takes_nothing_is_answered_with_503(tmp_path: Path) -> None:
    with Receiver(tmp_path) as receiver, Client(receiver.data) as client:
        (stored,) = tell(receiver, 1)
        _, hard = resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, (0, hard))
        for _ in range(3):
            assert client.get(webhook_path(bytes(32))).status == 503
            assert client.get("/optout?identity=malformed").status == 503
            assert client.tell(stored) == "duplicate"
        resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert client.tell(bytes(32)) == "new"
        assert client.get("/optout?identity=malformed").json == {"result": "malformed"}
        page = scrape(receiver.admin)
        assert page.value("bidstream_optouts_received_total", result="error") == 6
        assert page.value("bidstream_optouts_received_total", result="new") == 2
        assert receiver.stop() == 0


def test_without_a_store_or_an_address_it_does_not_start(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, optout_listen="")
    assert receiver.process.wait(40) == 2
    assert "BIDSTREAM_OPTOUT_LISTEN: missing" in receiver.stderr
