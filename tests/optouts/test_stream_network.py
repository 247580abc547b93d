"""The stream over a network that is slow, lets only a little through at a time, or is cut for one host."""

from pathlib import Path

import pytest

from bidstream_svc.optouts.stream_client import StreamSettings
from tests.optouts.fleet import Host, MakeHost, optout, until
from tests.optouts.network import Switch
from tests.support.redis_server import PROGRAM, RedisServer

pytestmark = [pytest.mark.needs_tools(PROGRAM), pytest.mark.timeout(300)]

STREAM = "bidstream:optouts"


def _through(switch: Switch) -> StreamSettings:
    return StreamSettings(switch.url, STREAM, timeout_s=2.0)


async def _until_all_have(hosts: list[Host], numbers: set[int]) -> None:
    for host in hosts:
        await host.until_it_has(numbers)
        await host.until_level()
        assert host.follower.state.gap == ""


async def test_a_slow_server_delays_and_loses_nothing(make_host: MakeHost, server: RedisServer) -> None:
    async with Switch(server.port) as switch:
        hosts = [make_host(name, is_receiver=name == "a", settings=_through(switch)) for name in ("a", "sidecar")]
        a, sidecar = hosts
        for number, delay_s in enumerate((0.0, 0.2, 0.6)):
            switch.delay_s = delay_s
            a.receive(*range(100 * number, 100 * number + 100))
            await _until_all_have(hosts, a.acknowledged)
        switch.delay_s = 5.0
        a.receive(*range(300, 400))
        await until(lambda: a.publisher.state.error == "no answer in time", f"{a.publisher.state}")
        await until(lambda: sidecar.follower.state.error == "no answer in time", f"{sidecar.follower.state}")
        assert not sidecar.has({300})
        switch.delay_s = 0.0
        await _until_all_have(hosts, a.acknowledged)


async def test_answers_that_come_in_small_parts(make_host: MakeHost, server: RedisServer) -> None:
    async with Switch(server.port) as switch:
        switch.part_bytes = 7
        hosts = [make_host(name, is_receiver=name == "a", settings=_through(switch)) for name in ("a", "sidecar")]
        for number in range(3):
            hosts[0].receive(*range(10 * number, 10 * number + 10))
            await _until_all_have(hosts, hosts[0].acknowledged)


async def test_a_follower_over_a_narrow_connection_catches_up(make_host: MakeHost, server: RedisServer) -> None:
    """Though what it asks for first takes longer than it waits for an answer."""
    a = make_host("a", is_receiver=True)
    a.store.add([optout(number) for number in range(20_000)], is_owed=True)  # about a megabyte
    a.publisher.wake()
    await a.until_level()
    await until(lambda: a.publisher.state.owed == 0 and server.client().xlen(STREAM) >= 20, f"{a.publisher.state}")
    async with Switch(server.port) as switch:
        switch.part_bytes, switch.delay_s = 10_000, 0.1
        narrow = make_host("narrow", settings=_through(switch))
        await until(lambda: narrow.store.count() == 20_000, f"{narrow.follower.state}")
        await narrow.until_level()


async def test_a_partition_of_one_receiver(make_host: MakeHost, server: RedisServer) -> None:
    async with Switch(server.port) as switch:
        a, b = make_host("a", is_receiver=True, settings=_through(switch)), make_host("b", is_receiver=True)
        sidecar = make_host("sidecar")
        a.receive(1)
        b.receive(2)
        await _until_all_have([a, b, sidecar], {1, 2})
        switch.cut()
        a.receive(*range(100, 200))
        b.receive(*range(200, 300))
        await _until_all_have([b, sidecar], b.acknowledged)
        await until(lambda: a.publisher.state.error == "no answer in time", f"{a.publisher.state}")
        await a.stop()  # killed while nothing has been appended
        a.start()
        a.receive(*range(300, 400))
        await until(lambda: a.publisher.state.error == "no answer in time", f"{a.publisher.state}")
        assert not sidecar.has({100})
        assert not a.has({200})
        switch.mend()
        await _until_all_have([a, b, sidecar], a.acknowledged | b.acknowledged)


async def test_a_receiver_that_is_away_during_a_fail_over_appends_again_what_was_lost(
    make_host: MakeHost, server: RedisServer, tmp_path: Path
) -> None:
    """Until then nobody else can: who had read it, and who had not, go on with another history of the stream."""
    with RedisServer(tmp_path / "replica") as replica, replica.client() as client:
        async with Switch(server.port) as switch, Switch(server.port) as replication:
            hosts = [
                make_host(name, is_receiver=name in "ab", settings=_through(switch)) for name in ("a", "b", "seen")
            ]
            a, b, seen = hosts
            unseen = make_host("unseen", settings=_through(switch))
            client.replicaof("127.0.0.1", str(replication.port))
            a.receive(*range(100))
            b.receive(*range(100, 200))
            await _until_all_have([*hosts, unseen], set(range(200)))
            length = server.client().xlen(STREAM)
            await until(lambda: client.xlen(STREAM) == length, "the replica lags")
            await unseen.stop()
            replication.cut()
            b.receive(*range(200, 300))
            await _until_all_have([seen], set(range(300)))
            await b.stop()
            server.kill()
            client.replicaof("NO", "ONE")
            assert client.xlen(STREAM) == length
            switch.turn_to(replica.port)
            a.receive(*range(300, 400))  # with the sequence numbers of what was lost
            unseen.start()
            await _until_all_have([unseen], a.acknowledged)
            assert not unseen.has({200})
            b.start()
            await _until_all_have([*hosts, unseen], set(range(400)))
