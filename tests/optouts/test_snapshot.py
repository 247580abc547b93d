"""Snapshots: the format, and how they are fetched and merged."""

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.errors import OptOutRecordError, OptOutStoreError, OptOutStreamError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts import snapshot_file
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import write_snapshot
from bidstream_svc.optouts.snapshot_client import SnapshotClient
from bidstream_svc.optouts.snapshot_file import SnapshotFile, SnapshotFiles, make_snapshot_file
from tests.optouts.fleet import until
from tests.optouts.merging import merge_snapshot

POSITION = Position(bytes(range(16)), 7, "1700000000000-5")
OPTOUTS = [
    OptOut(scope, bytes([number]) * length, 1_700_000_000 + number, None if number % 2 else 1_699_999_000)
    for scope in IdentityScope
    for length in (32, 33)
    for number in range(1, 30)
]


@pytest.fixture
def source(tmp_path: Path) -> OptOutStore:
    store = OptOutStore(tmp_path / "source")
    store.add(OPTOUTS, position=POSITION)
    return store


def _all(store: OptOutStore) -> list[OptOut]:
    return [optout for scope in IdentityScope for optout in store.iterate(scope)]


def test_a_merged_snapshot_gives_all_of_both_stores(source: OptOutStore, tmp_path: Path) -> None:
    with OptOutStore(tmp_path / "other") as other:
        own = OptOut(IdentityScope.UID2, bytes(32), 1)
        other.add([own, OPTOUTS[0]])
        header = merge_snapshot(other, write_snapshot(source.directory))
        assert header.position == POSITION
        assert header.count == len(OPTOUTS)
        assert sorted(_all(other)) == sorted([own, *OPTOUTS])
        assert other.position is None


def test_a_snapshot_is_of_one_moment(source: OptOutStore, tmp_path: Path) -> None:
    parts = write_snapshot(source.directory)
    first = next(parts)
    source.add([OptOut(IdentityScope.EUID, bytes(33), 1)])
    with OptOutStore(tmp_path / "other") as other:
        assert merge_snapshot(other, [first, *parts]).count == len(OPTOUTS)
        assert other.count() == len(OPTOUTS)


def test_damage_and_truncation_are_noticed_anywhere(source: OptOutStore, tmp_path: Path) -> None:
    whole = b"".join(write_snapshot(source.directory))
    with OptOutStore(tmp_path / "other") as other:

        @given(st.integers(0, len(whole) - 1), st.integers(0, 7))
        def check(place: int, bit: int) -> None:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            for wrong in (whole[:place], bytes(damaged), whole + b"E"):
                with pytest.raises(OptOutRecordError):
                    merge_snapshot(other, [wrong])

        check()
        assert set(_all(other)) <= set(OPTOUTS)


def test_a_snapshot_may_arrive_in_parts_of_any_size(source: OptOutStore, tmp_path: Path) -> None:
    whole = b"".join(write_snapshot(source.directory))
    for size in (1, 7, 100, 4096):
        with OptOutStore(tmp_path / str(size)) as other:
            merge_snapshot(other, (whole[start : start + size] for start in range(0, len(whole), size)))
            assert sorted(_all(other)) == sorted(OPTOUTS)


@pytest.fixture
async def receiver(source: OptOutStore) -> AsyncIterator[TestServer]:
    """A receiver that is not ready, then cuts a snapshot short, and then sends one."""
    files, asked = SnapshotFiles(source.directory), []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        if request.headers.get("Authorization") != "Bearer s3cret":
            return web.Response(status=401)
        if len(asked) <= 2:
            return web.Response(status=503)
        snapshot = await files.open()
        response = web.StreamResponse(headers={"Content-Length": str(snapshot.size)})
        await response.prepare(request)
        async for part in snapshot.iterate():
            if len(asked) == 3:
                await response.write(part[:100])
                assert request.transport is not None
                request.transport.close()
                break
            await response.write(part)
        return response

    application = web.Application()
    application.router.add_get("/snapshot", answer)
    server = TestServer(application)
    async with server:
        yield server


async def test_a_snapshot_that_fails_is_fetched_anew(receiver: TestServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("other\n")
    with OptOutStore(tmp_path / "other") as other:
        client = SnapshotClient(other, str(receiver.make_url("/snapshot")), token)
        with pytest.raises(OptOutStreamError, match="401"):
            await client.fetch()
        token.write_text("s3cret\n")
        with pytest.raises(OptOutStreamError, match="503"):
            await client.fetch()
        with pytest.raises(OptOutStreamError, match="no snapshot from the receiver"):
            await client.fetch()
        assert await client.fetch() == POSITION
        assert sorted(_all(other)) == sorted(OPTOUTS)


async def test_readers_at_once_share_one_file_that_nobody_else_can_open(source: OptOutStore) -> None:
    files = SnapshotFiles(source.directory)
    before = set(source.directory.iterdir())
    one, other = await files.open(), await files.open()
    assert one is other
    assert set(source.directory.iterdir()) == before


async def test_a_snapshot_that_takes_long_to_write_is_shared_too(
    source: OptOutStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0

    async def write_slowly(directory: Path) -> SnapshotFile:
        nonlocal now_s
        made = await make_snapshot_file(directory)
        now_s += 60
        return made

    monkeypatch.setattr(snapshot_file, "make_snapshot_file", write_slowly)
    monkeypatch.setattr(snapshot_file, "time", SimpleNamespace(monotonic=lambda: now_s))
    files = SnapshotFiles(source.directory)
    one, other = await asyncio.gather(files.open(), files.open())
    assert one is other
    now_s += 11
    assert await files.open() is not one


async def test_a_snapshot_that_cannot_be_written_is_told_in_one_line(source: OptOutStore) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # of the process that writes, too
    try:
        with pytest.raises(OptOutStoreError, match=r"^no snapshot: File too large$"):
            await SnapshotFiles(source.directory).open()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (source.directory / "data.mdb").rename(source.directory / "elsewhere")
    with pytest.raises(
        OptOutStoreError, match=rf"^no snapshot: opt-out store {source.directory}: No such file[a-z ]+$"
    ):
        await SnapshotFiles(source.directory).open()


async def test_a_request_that_is_cancelled_leaves_no_process(source: OptOutStore) -> None:
    opening = asyncio.create_task(SnapshotFiles(source.directory).open())
    await until(_children, "no process has been started")
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not _children()


def _children() -> list[str]:
    """The processes that write snapshots for this one."""
    return [
        child
        for tasks in Path("/proc/self/task").glob("*/children")
        for child in tasks.read_text().split()
        if b"snapshot_process" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
