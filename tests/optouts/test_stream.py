"""The stream of opt-outs with a real server."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from bidstream_svc.optouts.follower import CHECK_S
from bidstream_svc.optouts.optout_records import unpack
from bidstream_svc.optouts.stream_client import StreamSettings
from tests.optouts.fleet import MakeHost, raw_id, until
from tests.optouts.network import Switch
from tests.support.redis_server import PROGRAM, RedisServer

pytestmark = [pytest.mark.needs_tools(PROGRAM), pytest.mark.timeout(300)]


def _is_in_stream(server: RedisServer, number: int) -> bool:
    with server.client() as client:
        entries = client.xrange("bidstream:optouts")
    return any(raw_id(number) in fields[b"optouts"] for _, fields in entries)


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
        async with Switch(server.port) as switch, Switch(server.port) as replication:
            settings = StreamSettings(switch.url, "bidstream:optouts", timeout_s=2.0)
            a = make_host("a", is_receiver=True, settings=settings)
            b = make_host("b", is_receiver=True, settings=settings)
            sidecar = make_host("sidecar", settings=settings)
            with replica.client() as client:
                client.replicaof("127.0.0.1", str(replication.port))
                a.receive(*range(100))
                await until(lambda: client.xlen("bidstream:optouts") > 0, "the replica has no entries")
                await until(lambda: a.publisher.state.owed == 0, "the publisher owes entries")
                length = server.client().xlen("bidstream:optouts")
                await until(lambda: client.xlen("bidstream:optouts") == length, "the replica lags")
                replication.cut()
                a.receive(*range(100, 200))
                await sidecar.until_it_has(set(range(200)))
                server.kill()
                client.replicaof("NO", "ONE")
                assert client.xlen("bidstream:optouts") == length
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
    for number in (2, 3):
        a.receive(number)
        await until(lambda: _is_in_stream(server, number), "it is not appended")  # noqa: B023
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
        await until(lambda: alone.follower.state.gap, "the gap was not noticed, or forgotten")
        assert not alone.has({2})
        assert alone.level_ms == 0
        await alone.stop()
        alone.start()
    await alone.stop()
    alone.get_snapshots_from(a)
    alone.start()
    await alone.until_level()
    assert alone.has({1, 2, 3, 4})


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


async def test_refusals_are_told_and_end_by_themselves(
    make_host: MakeHost, server: RedisServer, tmp_path: Path
) -> None:
    """A wrong password, a key of another type, no memory: nothing is lost, and nobody has to restart anything."""
    password_file = tmp_path / "password"
    password_file.write_text("wrong")
    settings = StreamSettings(server.url, "bidstream:optouts", password_file, timeout_s=2.0)
    with server.client() as client:
        client.config_set("requirepass", "s3cret")
        a = make_host("a", is_receiver=True, settings=settings)
        a.receive(1)
        await until(lambda: "password" in a.publisher.state.error, "the password was taken")
        assert "wrong" not in a.publisher.state.error
        client.set("bidstream:optouts", "something else")
        password_file.write_text("default:s3cret\n")
        await until(lambda: "not a stream" in a.publisher.state.error, f"{a.publisher.state}")
        await until(lambda: "not a stream" in a.follower.state.error, f"{a.follower.state}")
        client.delete("bidstream:optouts")
        await until(lambda: not a.publisher.state.error, f"{a.publisher.state}")
        await a.until_level()
        client.delete("bidstream:optouts")
        client.config_set("maxmemory", "1")
        a.receive(2)
        await until(lambda: "memory" in a.publisher.state.error, f"{a.publisher.state}")
        client.config_set("maxmemory", "0")
        sidecar = make_host("sidecar", settings=settings)
        await sidecar.until_it_has({1, 2})


async def test_a_read_only_replica_takes_nothing_and_proves_nothing_without_its_primary(
    make_host: MakeHost, server: RedisServer, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "replica") as replica, replica.client() as client:
        client.replicaof("127.0.0.1", str(server.port))
        settings = StreamSettings(replica.url, "bidstream:optouts", timeout_s=2.0)
        a = make_host("a", is_receiver=True)
        wrong = make_host("wrong", is_receiver=True, settings=settings)
        a.receive(1)
        wrong.receive(2)
        await until(lambda: "read-only" in wrong.publisher.state.error, f"{wrong.publisher.state}")
        await wrong.until_it_has({1})
        await wrong.until_level()
        server.kill()
        await until(lambda: client.info("replication")["master_link_status"] == "down", "the link is up")
        await asyncio.sleep(CHECK_S + 1)
        level_ms = wrong.level_ms
        await asyncio.sleep(CHECK_S + 1)
        assert wrong.level_ms == level_ms
        assert wrong.follower.state.is_connected


async def test_any_faults_in_any_order_lose_nothing(make_host: MakeHost, server: RedisServer) -> None:
    seed = int(os.environ.get("OPTOUT_FAULT_SEED", "1"))
    steps = int(os.environ.get("OPTOUT_FAULT_STEPS", "40"))
    rng = random.Random(seed)  # noqa: S311 - repeatable
    receivers = [make_host("a", is_receiver=True), make_host("b", is_receiver=True)]
    for number, receiver in enumerate(receivers):
        await receiver.until_level()
        receiver.get_snapshots_from(receivers[1 - number])
    followers = [make_host(f"sidecar{number}", fetch_snapshot=receivers[number % 2].snapshots()) for number in range(3)]
    hosts, numbers = [*receivers, *followers], iter(range(10**6))

    def publish() -> None:
        receiver = rng.choice([host for host in receivers if host.is_running])
        receiver.receive(*(next(numbers) for _ in range(rng.randint(1, 30))))

    def restart_server(*, is_empty: bool) -> None:
        server.kill()
        if is_empty:
            server.forget()
        server.start()

    async def restart_host() -> None:
        host = rng.choice(hosts)
        if host.is_running:
            await host.stop()
        else:
            host.start()

    for _ in range(steps):
        match rng.choice(["publish"] * 5 + ["empty", "roll back", "save", "host", "host", "pause", "wait", "wait"]):
            case "publish" if any(host.is_running for host in receivers):
                publish()
            case "empty":
                restart_server(is_empty=True)
            case "roll back":
                restart_server(is_empty=False)
            case "save":
                server.save()
            case "host":
                await restart_host()
            case "pause":
                server.pause()
                await asyncio.sleep(rng.uniform(0, 3))
                server.resume()
            case _:
                await asyncio.sleep(rng.uniform(0, 1))
    for host in hosts:
        if not host.is_running:
            host.start()
    acknowledged = receivers[0].acknowledged | receivers[1].acknowledged
    for host in hosts:
        await host.until_it_has(acknowledged)
        await host.until_level()
        assert host.store.count() == len(acknowledged), f"seed {seed}"
