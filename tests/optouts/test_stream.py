"""The stream of opt-outs with a real server."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from bidstream_svc.optouts.optout_records import unpack
from bidstream_svc.optouts.snapshot import merge_snapshot, write_snapshot
from bidstream_svc.optouts.stream_client import StreamSettings
from tests.optouts.fleet import Host, Switch, raw_id, until
from tests.support.redis_server import PROGRAM, RedisServer

pytestmark = [pytest.mark.needs_tools(PROGRAM), pytest.mark.timeout(300)]

MakeHost = Callable[..., Host]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
async def make_host(tmp_path: Path, server: RedisServer) -> AsyncIterator[MakeHost]:
    hosts: list[Host] = []

    def make(
        name: str, *, is_receiver: bool = False, settings: StreamSettings | None = None, **options: object
    ) -> Host:
        settings = settings or StreamSettings(server.url, "bidstream:optouts", timeout_s=2.0)
        host = Host(tmp_path / name, settings, is_receiver=is_receiver, **options)  # type: ignore[arg-type]
        hosts.append(host)
        return host.start()

    yield make
    for host in hosts:
        if host.is_running:
            await host.stop()


async def test_what_two_receivers_get_at_once_is_on_every_host(make_host: MakeHost, server: RedisServer) -> None:
    a, b = make_host("a", is_receiver=True), make_host("b", is_receiver=True)
    sidecar = make_host("sidecar")
    for start in range(0, 4000, 20):
        a.receive(*range(start, start + 10))
        b.receive(*range(start + 10, start + 20))
        if start % 400 == 0:
            await sidecar.until_it_has(a.acknowledged & set(range(start)))
    for host in (a, b, sidecar):
        await host.until_it_has(set(range(4000)))
        await host.until_level()
        assert host.follower.state.gap == ""
    with server.client() as client:
        entries = client.xrange("bidstream:optouts")
    assert [int(fields[b"sequence"]) for _, fields in entries] == list(range(1, len(entries) + 1))
    assert [fields[b"previous"] for _, fields in entries] == [b"", *(entry_id for entry_id, _ in entries[:-1])]
    assert len({fields[b"epoch"] for _, fields in entries}) == 1


async def test_a_server_that_restarts_empty_gets_everything_again(make_host: MakeHost, server: RedisServer) -> None:
    a, b = make_host("a", is_receiver=True), make_host("b", is_receiver=True)
    sidecar, late = make_host("sidecar"), make_host("late")
    a.receive(*range(100))
    b.receive(*range(100, 200))
    for host in (a, b, sidecar, late):
        await host.until_it_has(set(range(200)))
        await host.until_level()
    await late.stop()
    a.receive(*range(200, 300))
    await sidecar.until_it_has(set(range(300)))
    server.kill()
    b.receive(*range(300, 400))
    server.start()
    late.start()
    for host in (a, b, sidecar, late):
        await host.until_it_has(set(range(400)))
        await host.until_level()
        assert host.follower.state.gap == ""


async def test_a_server_that_restarts_from_an_older_file_gets_back_what_it_lost(
    make_host: MakeHost, server: RedisServer
) -> None:
    a, b = make_host("a", is_receiver=True), make_host("b", is_receiver=True)
    seen, unseen = make_host("seen"), make_host("unseen")
    a.receive(*range(100))
    b.receive(*range(100, 200))
    for host in (a, b, seen, unseen):
        await host.until_it_has(set(range(200)))
        await host.until_level()
    server.save()
    await unseen.stop()
    a.receive(*range(200, 300))
    await seen.until_it_has(set(range(300)))
    server.kill()
    server.start()
    # The other receiver takes the sequence numbers of what was lost.
    b.receive(*range(300, 400))
    unseen.start()
    for host in (a, b, seen, unseen):
        await host.until_it_has(set(range(400)))
        await host.until_level()
        assert host.follower.state.gap == ""


async def test_a_fail_over_to_a_replica_that_lags_loses_nothing(
    make_host: MakeHost, server: RedisServer, tmp_path: Path
) -> None:
    """The settings name a proxy, as a service's address does."""
    with RedisServer(tmp_path / "replica") as replica:
        async with Switch(server.port) as switch:
            settings = StreamSettings(f"redis://127.0.0.1:{switch.port}/0", "bidstream:optouts", timeout_s=2.0)
            a = make_host("a", is_receiver=True, settings=settings)
            b = make_host("b", is_receiver=True, settings=settings)
            sidecar = make_host("sidecar", settings=settings)
            with replica.client() as client:
                client.replicaof("127.0.0.1", str(server.port))
                a.receive(*range(100))
                await until(lambda: client.xlen("bidstream:optouts") > 0, "the replica has no entries")
                await until(lambda: a.publisher.state.owed == 0, "the publisher owes entries")
                length = server.client().xlen("bidstream:optouts")
                await until(lambda: client.xlen("bidstream:optouts") == length, "the replica lags")
                replica.pause()
                a.receive(*range(100, 200))
                await sidecar.until_it_has(set(range(200)))
                server.kill()
                replica.resume()
                client.replicaof("NO", "ONE")
            switch.turn_to(replica.port)
            b.receive(*range(200, 300))
            for host in (a, b, sidecar):
                await host.until_it_has(set(range(300)))
                await host.until_level()
                assert host.follower.state.gap == ""
            with replica.client() as client:
                held = {
                    record.raw_id
                    for _, fields in client.xrange("bidstream:optouts")
                    for record in unpack(fields[b"optouts"])
                }
            assert held == {raw_id(number) for number in range(300)}


async def test_a_partition_delays_and_loses_nothing(make_host: MakeHost, server: RedisServer) -> None:
    a, sidecar = make_host("a", is_receiver=True), make_host("sidecar")
    a.receive(*range(100))
    await sidecar.until_it_has(set(range(100)))
    await sidecar.until_level()
    server.pause()
    a.receive(*range(100, 200))
    await until(lambda: a.publisher.state.error and sidecar.follower.state.error, "nobody noticed")
    assert a.publisher.state.error == sidecar.follower.state.error == "no answer in time"
    assert not sidecar.follower.state.is_connected
    assert not sidecar.has({100})
    level_ms = sidecar.level_ms
    server.resume()
    await sidecar.until_it_has(set(range(200)))
    await sidecar.until_level()
    assert sidecar.level_ms > level_ms
    assert sidecar.follower.state.is_connected


async def test_a_follower_behind_what_was_trimmed_gets_a_snapshot(make_host: MakeHost, server: RedisServer) -> None:
    a = make_host("a", is_receiver=True)
    away = make_host("away", fetch_snapshot=a.snapshots())
    alone = make_host("alone")
    a.receive(1)
    for host in (away, alone):
        await host.until_it_has({1})
        await host.until_level()
        await host.stop()
    a.receive(2)
    await until(lambda: a.publisher.state.owed == 0 and a.publisher.state.last_contact_ms, "nothing is appended")
    a.receive(3)
    await a.until_level()
    with server.client() as client:
        client.xtrim("bidstream:optouts", maxlen=1, approximate=False)
    a.receive(4)
    away.start()
    alone.start()
    await away.until_it_has({1, 2, 3, 4})
    await away.until_level()
    assert away.follower.state.gap == ""
    # Without an address for snapshots, what there is is read, and the gap is kept, over restarts too.
    for _ in range(2):
        await alone.until_it_has({4})
        assert alone.follower.state.gap == "entries were trimmed before they were read"
        assert not alone.has({2})
        assert alone.level_ms == 0
        await alone.stop()
        alone.start()
    # Somebody restores it.
    merge_snapshot(alone.store, write_snapshot(a.store))


async def test_a_new_host_needs_a_snapshot_only_if_the_stream_does_not_go_back_to_its_beginning(
    make_host: MakeHost, server: RedisServer
) -> None:
    a = make_host("a", is_receiver=True)
    a.receive(1)
    new = make_host("new")
    await new.until_it_has({1})
    await new.until_level()
    a.receive(2)
    await new.until_it_has({2})
    with server.client() as client:
        client.xtrim("bidstream:optouts", maxlen=1, approximate=False)
    newer = make_host("newer", fetch_snapshot=a.snapshots())
    await newer.until_it_has({1, 2})
    await newer.until_level()
    # A server that lost everything begins with what a receiver appends again: not with the beginning either.
    server.kill()
    server.start()
    await until(lambda: server.client().exists("bidstream:optouts"), "the stream does not begin again")
    newest = make_host("newest")
    await until(lambda: newest.follower.state.gap, "a new host did not notice what is missing")
    assert newest.level_ms == 0


async def test_entries_of_others_are_passed_over(make_host: MakeHost, server: RedisServer) -> None:
    a, sidecar = make_host("a", is_receiver=True), make_host("sidecar")
    a.receive(1)
    await sidecar.until_level()
    with server.client() as client:
        for _ in range(3):
            client.xadd("bidstream:optouts", {"hello": "world"})
    a.receive(2)
    await sidecar.until_it_has({1, 2})
    await sidecar.until_level()
    assert sidecar.follower.state.gap == ""


async def test_an_entry_that_cannot_be_read_opens_a_gap_and_the_rest_is_applied(
    make_host: MakeHost, server: RedisServer
) -> None:
    a, sidecar = make_host("a", is_receiver=True), make_host("sidecar")
    a.receive(1)
    await sidecar.until_level()
    await a.stop()
    with server.client() as client:
        (entry_id, fields), *_ = client.xrevrange("bidstream:optouts", count=1)
        client.xadd(
            "bidstream:optouts",
            fields | {b"sequence": int(fields[b"sequence"]) + 1, b"previous": entry_id, b"optouts": b"\x07later"},
        )
    a.start()
    a.receive(2)
    await sidecar.until_it_has({1, 2})
    assert sidecar.follower.state.gap == "an entry of the stream cannot be read"
