"""Snapshots that are cut off go on where they were, against real receivers and against one that lies."""

import asyncio
import hashlib
import os
import signal
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from bidstream_svc.core.errors import OptOutRecordError, OptOutStreamError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts import snapshot_client, snapshot_file
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import write_snapshot
from bidstream_svc.optouts.snapshot_client import SnapshotClient
from bidstream_svc.server.optout_plane import _MAX_SNAPSHOTS, OptOutPlane
from tests.faults.optout_fleet import all_optouts
from tests.optouts.cutting import Cutter, Passage
from tests.support.receiver import Receiver, RunningReceiver, receiver_in_thread
from tests.support.sidecar import DEADLINE_S, wait_until

pytestmark = pytest.mark.timeout(300)

COUNT = 120_000  # more than are merged at once
POSITION, OTHER_POSITION = (Position(bytes([number]) * 16, 7, f"170000000000{number}-5") for number in (1, 2))


def _ids_of(seed: int) -> set[bytes]:
    return {hashlib.sha256(b"%d %d" % (seed, number)).digest() for number in range(COUNT)}


def _fill(directory: Path, position: Position, *, seed: int) -> None:
    with OptOutStore(directory) as store:
        store.add([OptOut(IdentityScope.UID2, raw_id, 1) for raw_id in _ids_of(seed)], position=position)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of two receivers; their seeds are 1 and 2."""
    directory = tmp_path_factory.mktemp("receivers")
    _fill(directory / "one", POSITION, seed=1)
    _fill(directory / "other", OTHER_POSITION, seed=2)
    return directory / "one", directory / "other"


@pytest.fixture(scope="module")
def receiver(stores: tuple[Path, Path]) -> Iterator[RunningReceiver]:
    with receiver_in_thread(stores[0]) as running:
        yield running


@pytest.fixture(autouse=True)
def _without_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_client, "_RESUMPTION_BACK_OFF_S", (0.01, 0.05))
    monkeypatch.setattr(snapshot_client, "_MAX_RETRY_AFTER_S", 0.05)


def _port(receiver: RunningReceiver) -> int:
    return int(receiver.address.rpartition(":")[2])


def _ids(store: OptOutStore) -> set[bytes]:
    return {optout.raw_id for scope in IdentityScope for optout in all_optouts(store, scope)}


@pytest.mark.parametrize("aborts", [False, True], ids=["closed", "reset"])
async def test_a_download_that_is_cut_off_goes_on_where_it_was(
    receiver: RunningReceiver, tmp_path: Path, *, aborts: bool
) -> None:
    port = _port(receiver)
    cuts = (0, 1, 700_001, 2_000_000)
    passages = [*(Passage(port, cut, aborts) for cut in cuts), Passage(port)]
    with OptOutStore(tmp_path / "host") as store:
        async with Cutter(passages) as cutter:
            assert await SnapshotClient(store, cutter.url).fetch() == POSITION
        assert store.count() == COUNT
        assert store.position is None  # the follower writes it
        assert _ids(store) == _ids_of(1)
    starts = [int(each.removeprefix("bytes=").removesuffix("-") or 0) for each in cutter.ranges()]
    assert len(starts) == len(passages)
    # What has arrived and not been merged when a connection breaks is asked for again.
    for place in range(1, len(cuts)):
        assert 0 < starts[place + 1] <= starts[place] + cuts[place], starts
    assert starts[:2] == [0, 0]
    assert starts == sorted(starts)


async def test_a_download_that_is_cut_off_by_the_end_of_tls_goes_on(
    receiver: RunningReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    tls, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(tls)
    authority.configure_trust(trusting)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    passages = [Passage(_port(receiver), 1_000_000, aborts=True), Passage(_port(receiver))]
    with OptOutStore(tmp_path / "host") as store:
        async with Cutter(passages, tls) as cutter:
            assert await SnapshotClient(store, cutter.url).fetch() == POSITION
        assert store.count() == COUNT
    assert len(cutter.heads) == 2


async def test_another_receiver_sends_its_own_snapshot_and_nothing_is_counted_twice(
    receiver: RunningReceiver, stores: tuple[Path, Path], tmp_path: Path
) -> None:
    with receiver_in_thread(stores[1]) as other, OptOutStore(tmp_path / "host") as store:
        async with Cutter([Passage(_port(receiver), 4_800_000), Passage(_port(other))]) as cutter:
            assert await SnapshotClient(store, cutter.url).fetch() == OTHER_POSITION
        assert [bool(each) for each in cutter.ranges()] == [False, True]
        held = _ids(store)  # some of the first snapshot have been merged: what waits in buffers is less than its half
        assert _ids_of(2) <= held <= _ids_of(1) | _ids_of(2)
        assert COUNT < store.count() == len(held) < 2 * COUNT
        # Once more: all is known, and nothing is counted again.
        before = store.count()
        async with Cutter([Passage(_port(other), 1_000), Passage(_port(other))]) as cutter:
            assert await SnapshotClient(store, cutter.url).fetch() == OTHER_POSITION
        assert store.count() == before


async def test_a_receiver_that_is_killed_and_started_again_sends_all(tmp_path: Path) -> None:
    directory = tmp_path / "receiver"
    directory.mkdir()
    _fill(directory / "store", POSITION, seed=3)
    with ExitStack() as stack, OptOutStore(tmp_path / "host") as store:
        first = stack.enter_context(Receiver(directory))
        port = int(first.data.rpartition(":")[2])

        def kill_and_start_again() -> None:
            first.signal(signal.SIGKILL)
            first.process.wait(DEADLINE_S)
            stack.enter_context(Receiver(directory, optout_listen=f"127.0.0.1:{port}")).wait_ready()

        passages = [Passage(port, 3_000_000, before_cut=lambda: asyncio.to_thread(kill_and_start_again)), Passage(port)]
        async with Cutter(passages) as cutter:
            assert await SnapshotClient(store, cutter.url).fetch() == POSITION
        assert [bool(each) for each in cutter.ranges()] == [False, True]
        assert _ids(store) == _ids_of(3)


async def test_a_snapshot_that_is_gone_is_replaced_by_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_file, "_MAX_AGE_S", 0.0)
    _fill(tmp_path / "store", POSITION, seed=4)
    with receiver_in_thread(tmp_path / "store") as running, OptOutStore(tmp_path / "host") as store:
        port = _port(running)

        async def tell_and_have_another_one_written() -> None:
            with running.connect() as client:
                assert client.tell(bytes(32)) == "new"
                assert client.get("/snapshot").status == 200

        passages = [Passage(port, 1_000_000, before_cut=tell_and_have_another_one_written), Passage(port)]
        async with Cutter(passages) as cutter:
            assert await SnapshotClient(store, cutter.url).fetch() == POSITION
        assert [bool(each) for each in cutter.ranges()] == [False, True]
        assert _ids(store) == _ids_of(4) | {bytes(32)}


async def test_a_snapshot_that_others_still_read_is_resumed_though_there_is_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_file, "_MAX_AGE_S", 0.0)
    _fill(tmp_path / "store", POSITION, seed=5)
    with receiver_in_thread(tmp_path / "store") as running, OptOutStore(tmp_path / "host") as store:
        with running.connect() as client:
            first = client.get("/snapshot")
            plane = running.service._server._plane
            assert isinstance(plane, OptOutPlane)
            kept = plane._snapshots.find(first.headers["etag"])  # as a reader keeps it
            assert kept is not None
            assert client.tell(bytes(32)) == "new"
            newer = client.get("/snapshot")
            assert newer.headers["etag"] != first.headers["etag"]
            part = client.get("/snapshot", If_Range=first.headers["etag"], Range="bytes=77-")
            assert (part.status, part.body) == (206, first.body[77:])
            del kept
            gone = client.get("/snapshot", If_Range=first.headers["etag"], Range="bytes=77-")
            assert gone.status == 200
        assert store.count() == 0


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _serving(handler: Handler) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/snapshot", handler)
    async with TestServer(application) as server:
        yield str(server.make_url("/snapshot"))


class Liar:
    """A receiver that sends half of a snapshot, and then answers as it is told."""

    def __init__(self, whole: bytes, **headers: str) -> None:
        self.whole, self.headers = whole, headers
        self.digest = b64encode(hashlib.sha256(whole).digest()).decode()
        self.asked = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        half, size = len(self.whole) // 2, len(self.whole)
        if "Range" not in request.headers:
            response = web.StreamResponse(
                headers={
                    "Accept-Ranges": "bytes",
                    "ETag": '"one"',
                    "Content-Length": str(size),
                    "Repr-Digest": f"sha-256=:{self.digest}:",
                }
            )
            await response.prepare(request)
            await response.write(self.whole[:half])
            assert request.transport is not None
            request.transport.close()
            return response
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        return self.go_on(start)

    def go_on(self, start: int) -> web.Response:
        size = len(self.whole)
        headers = {"ETag": '"one"', "Content-Range": f"bytes {start}-{size - 1}/{size}"} | self.headers
        return web.Response(status=206, body=self.whole[start:], headers=headers)


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    with OptOutStore(tmp_path / "source") as store:
        store.add([OptOut(IdentityScope.UID2, bytes([number]) * 32, 1) for number in range(200)], position=POSITION)
    return b"".join(write_snapshot(tmp_path / "source"))


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"other"'},
        {"ETag": 'W/"one"'},
        {"Content-Range": "bytes 0-99/100"},
        {"Content-Range": "bytes 1-8219/8220"},
        {"Content-Range": "bytes */8220"},
        {"Content-Range": "anything"},
        {"Content-Range": ""},
    ],
)
async def test_an_answer_that_does_not_fit_is_not_merged(whole: bytes, tmp_path: Path, headers: dict[str, str]) -> None:
    liar = Liar(whole, **headers)
    with OptOutStore(tmp_path / "host") as store:
        async with _serving(liar.answer) as url:
            with pytest.raises(OptOutStreamError, match="goes on with another snapshot"):
                await SnapshotClient(store, url).fetch()
        assert liar.asked == 2


async def test_what_is_right_frame_by_frame_and_was_not_written_together_is_refused(
    whole: bytes, tmp_path: Path
) -> None:
    liar = Liar(whole)
    liar.digest = b64encode(bytes(32)).decode()
    with OptOutStore(tmp_path / "host") as store:
        async with _serving(liar.answer) as url:
            with pytest.raises(OptOutRecordError, match="digest"):
                await SnapshotClient(store, url).fetch()


async def test_a_range_that_ends_early_is_gone_on_with(whole: bytes, tmp_path: Path) -> None:
    class Short(Liar):
        def go_on(self, start: int) -> web.Response:
            end = min(len(self.whole), start + 1_000)
            headers = {"ETag": '"one"', "Content-Range": f"bytes {start}-{end - 1}/{len(self.whole)}"}
            return web.Response(status=206, body=self.whole[start:end], headers=headers)

    liar = Short(whole)
    with OptOutStore(tmp_path / "host") as store:
        async with _serving(liar.answer) as url:
            assert await SnapshotClient(store, url).fetch() == POSITION
        assert store.count() == 200
    assert liar.asked == 1 + -(-(len(whole) - len(whole) // 2) // 1_000)


@pytest.mark.parametrize("status", [429, 503])
async def test_resumptions_are_bounded_and_ask_when_they_are_told(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(snapshot_client, "_MAX_RETRY_AFTER_S", 60.0)
    waited_s: list[float] = []

    async def sleep(delay_s: float) -> None:
        waited_s.append(delay_s)

    class Busy(Liar):
        def go_on(self, start: int) -> web.Response:
            assert start > 0
            return web.Response(status=status, headers={"Retry-After": "7"})

    monkeypatch.setattr("bidstream_svc.optouts.snapshot_client.asyncio.sleep", sleep)
    liar = Busy(whole)
    with OptOutStore(tmp_path / "host") as store:
        async with _serving(liar.answer) as url:
            with pytest.raises(OptOutStreamError, match=str(status)):
                await SnapshotClient(store, url).fetch()
    assert liar.asked == 1 + snapshot_client._MAX_RESUMPTIONS
    assert waited_s.count(7.0) == snapshot_client._MAX_RESUMPTIONS
    assert len({wait_s for wait_s in waited_s if wait_s != 7.0}) > 1  # drawn at random


async def test_a_snapshot_of_a_receiver_without_resumption_begins_anew(whole: bytes, tmp_path: Path) -> None:
    asked: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
        await response.prepare(request)
        await response.write(whole[:1_000])
        assert request.transport is not None
        request.transport.close()
        return response

    with OptOutStore(tmp_path / "host") as store:
        async with _serving(answer) as url:
            with pytest.raises(OptOutStreamError, match="no snapshot from the receiver"):
                await SnapshotClient(store, url).fetch()
    assert len(asked) == 1


def test_ranges_are_answered_as_http_says(receiver: RunningReceiver) -> None:
    with receiver.connect() as client:
        first = client.get("/snapshot")
        tag, size = first.headers["etag"], len(first.body)
        assert (first.status, first.headers["accept-ranges"]) == (200, "bytes")
        assert tag == f'"{hashlib.sha256(first.body).hexdigest()}"'
        for text, start, end in (
            ("bytes=0-", 0, size),
            ("bytes=100-", 100, size),
            (f"bytes={size - 1}-", size - 1, size),
            ("bytes=5-9", 5, 10),
            ("bytes=-7", size - 7, size),
            (f"bytes=0-{size * 2}", 0, size),
        ):
            part = client.get("/snapshot", If_Range=tag, Range=text)
            assert (part.status, part.body) == (206, first.body[start:end])
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
            assert part.headers["etag"] == tag
        for text in (f"bytes={size}-", "bytes=9-5", "bytes=-0", "bytes=", "bytes=-", "bytes=0-1,5-6", "bytes=x-"):
            refused = client.get("/snapshot", If_Range=tag, Range=text)
            assert (refused.status, refused.error) == (416, "range_not_satisfiable")
            assert refused.headers["content-range"] == f"bytes */{size}"
        for headers in (
            {"Range": "bytes=100-"},
            {"Range": "bytes=100-", "If_Range": '"another"'},
            {"Range": "bytes=100-", "If_Range": f"W/{tag}"},
            {"Range": "lines=1-2", "If_Range": tag},
        ):
            again = client.get("/snapshot", **headers)
            assert (again.status, len(again.body)) == (200, size)


def test_a_part_needs_the_bearer_token_as_well(stores: tuple[Path, Path], tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret")
    with receiver_in_thread(stores[1], optout_auth_token_file=token_file) as running, running.connect() as client:
        tag = client.get("/snapshot", Authorization="Bearer secret").headers["etag"]
        refused = client.get("/snapshot", If_Range=tag, Range="bytes=1-")
        assert (refused.status, "content-range" in refused.headers) == (401, False)


def test_hosts_that_wait_for_a_snapshot_count(tmp_path: Path) -> None:
    """None of them reads, so that a place is free only when one has gone."""
    with OptOutStore(tmp_path / "store") as store:
        store.add(OptOut(IdentityScope.UID2, os.urandom(32), 1) for _ in range(400_000))
    with receiver_in_thread(tmp_path / "store") as running:
        clients = [running.connect() for _ in range(_MAX_SNAPSHOTS + 8)]
        for client in clients:
            client.send(b"GET /snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heads = [client.socket.recv(12, 0x2 | 0x100) for client in clients]  # MSG_PEEK and MSG_WAITALL
        refused = [client for client, head in zip(clients, heads, strict=True) if head == b"HTTP/1.1 503"]
        assert heads.count(b"HTTP/1.1 200") == _MAX_SNAPSHOTS
        assert len(refused) == 8
        answer = refused[0].receive()
        assert (answer.error, answer.headers["retry-after"]) == ("unavailable", "5")
        for client in clients:
            client.socket.close()

        def is_served() -> bool:
            with running.connect() as client:
                return client.get("/snapshot").status == 200

        wait_until(is_served, "a place")
