"""What hosts ask of the server of the stream, and how often: thousands of them share its one core."""

import asyncio
import time
from typing import Any

import pytest

from bidstream_svc.optouts import follower, stream_publisher
from bidstream_svc.optouts.follower import CHECK_S, READ_GAP_S
from bidstream_svc.optouts.stream_publisher import APPEND_GAP_S
from tests.optouts.fleet import MakeHost, until
from tests.support.redis_server import PROGRAM, RedisServer

pytestmark = [pytest.mark.needs_tools(PROGRAM), pytest.mark.timeout(300)]


def calls(server: RedisServer, *commands: str) -> int:
    """How often the server has been sent one of these commands."""
    with server.client() as client:
        stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"] for command in commands)


async def test_entries_gather_between_two_reads(make_host: MakeHost, server: RedisServer) -> None:
    a = make_host("a", is_receiver=True)
    sidecar = make_host("sidecar")
    for host in (a, sidecar):
        await host.until_level()
    begun_s, before, added = time.monotonic(), calls(server, "xread"), calls(server, "xadd")
    for number in range(300):
        a.receive(number)
        await asyncio.sleep(0.01)
    await sidecar.until_it_has(set(range(300)))
    hosts, reads = 2, (time.monotonic() - begun_s) / READ_GAP_S
    assert calls(server, "xread") - before <= hosts * (reads + 2)
    assert calls(server, "xadd") - added <= (time.monotonic() - begun_s) / APPEND_GAP_S + 2


async def test_a_host_that_is_far_behind_reads_without_a_pause(
    make_host: MakeHost, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "READ_GAP_S", 3_600.0)
    monkeypatch.setattr(stream_publisher, "APPEND_GAP_S", 0.0)
    a = make_host("a", is_receiver=True)
    with server.client() as client:
        for number in range(3 * follower._FIRST_ENTRIES):
            length = client.xlen("bidstream:optouts")
            a.receive(number)
            await until(lambda: client.xlen("bidstream:optouts") > length, "it is not appended")  # noqa: B023
    late = make_host("late")
    await late.until_it_has(a.acknowledged)


async def test_an_idle_host_checks_the_stream_every_few_seconds(make_host: MakeHost, server: RedisServer) -> None:
    a, scripts = make_host("a", is_receiver=True), ("eval", "evalsha")
    a.receive(1)
    await a.until_level()
    await a.stop()
    sidecars = [make_host(f"sidecar{number}", is_receiver=True) for number in range(4)]  # with a publisher, as all have
    for host in sidecars:
        await host.until_level()
    begun_s, before = time.monotonic(), calls(server, *scripts, "role")
    level_ms = [host.level_ms for host in sidecars]
    await asyncio.sleep(2 * CHECK_S + 1)
    checks = (time.monotonic() - begun_s) / CHECK_S + 2
    assert calls(server, *scripts, "role") - before <= len(sidecars) * 3 * checks
    for host, level in zip(sidecars, level_ms, strict=True):
        assert host.level_ms > level


async def test_a_stream_that_is_deleted_while_nothing_comes_is_noticed(
    make_host: MakeHost, server: RedisServer
) -> None:
    a, sidecar = make_host("a", is_receiver=True), make_host("sidecar")
    a.receive(1)
    await sidecar.until_it_has({1})
    await sidecar.until_level()
    with server.client() as client:
        client.delete("bidstream:optouts")
    await sidecar.until_level()
    late = make_host("late")
    await late.until_it_has({1})
