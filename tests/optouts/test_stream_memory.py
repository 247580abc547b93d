"""The stream on a server whose memory is limited."""

import pytest

from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.stream_client import StreamSettings
from tests.optouts.fleet import Host, MakeHost, optout, until
from tests.support.redis_server import PROGRAM, RedisServer

pytestmark = [pytest.mark.needs_tools(PROGRAM), pytest.mark.timeout(300)]

STREAM = "bidstream:optouts"


def _used_bytes(server: RedisServer) -> int:
    with server.client() as client:
        used: int = client.info("memory")["used_memory"]
    return used


def _limit_memory(server: RedisServer, policy: str, room_bytes: int) -> int:
    """Allow so much more than is used now. Returns the limit."""
    limit = _used_bytes(server) + room_bytes
    with server.client() as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", limit)
    return limit


def _many(start: int, count: int) -> list[OptOut]:
    return [optout(number) for number in range(start, start + count)]


def _receive_many(host: Host, start: int, count: int) -> None:
    host.store.add(_many(start, count), is_owed=True)
    host.acknowledged.update(range(start, start + count))
    host.publisher.wake()


async def test_a_server_without_memory_takes_no_more_and_gets_the_rest_later(
    make_host: MakeHost, server: RedisServer
) -> None:
    a, sidecar = make_host("a", is_receiver=True), make_host("sidecar")
    a.receive(1)
    await sidecar.until_it_has({1})
    limit = _limit_memory(server, "noeviction", 1_000_000)
    _receive_many(a, 1_000, 100_000)  # of which each takes about 50 bytes
    await until(lambda: "memory" in a.publisher.state.error, f"{a.publisher.state}")
    assert _used_bytes(server) < limit + 1_000_000
    assert a.publisher.state.owed > 0
    assert not a.publisher.state.is_connected
    await sidecar.until_level()  # with what there is
    with server.client() as client:
        client.config_set("maxmemory", 0)
    await until(lambda: sidecar.store.count() == 100_001, f"{a.publisher.state}")
    await sidecar.until_level()
    assert sidecar.follower.state.gap == ""


async def test_a_server_without_memory_gives_up_what_is_older_than_the_retention(
    make_host: MakeHost, server: RedisServer
) -> None:
    """Otherwise nobody could append until somebody intervenes."""
    settings = StreamSettings(server.url, STREAM, retention_ms=1_000, timeout_s=2.0)
    a = make_host("a", is_receiver=True, settings=settings)
    a.receive(1)
    await until(lambda: a.publisher.state.owed == 0 and server.client().xlen(STREAM), "the first entry")
    _receive_many(a, 1_000, 100_000)
    await until(lambda: _is_appended(server, 100_999), "the entries")
    _limit_memory(server, "noeviction", -100_000)
    a.receive(2)
    await until(lambda: _is_appended(server, 2), f"{a.publisher.state}")


def _is_appended(server: RedisServer, number: int) -> bool:
    with server.client() as client:
        newest = client.xrevrange(STREAM, count=1)
    return any(optout(number).raw_id in fields[b"optouts"] for _, fields in newest)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
async def test_a_stream_that_is_evicted_begins_again_with_everything(
    policy: str, make_host: MakeHost, server: RedisServer
) -> None:
    a, b = make_host("a", is_receiver=True), make_host("b", is_receiver=True)
    sidecar = make_host("sidecar")
    a.receive(*range(100))
    b.receive(*range(100, 200))
    await sidecar.until_it_has(set(range(200)))
    for host in (a, b, sidecar):
        await host.until_level()
    with server.client() as client:
        first_id = _ids(server)[0]
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", "1mb")  # less than the server needs: all keys go
        client.info()
        await until(lambda: first_id not in _ids(server), "the stream is still there")
        client.config_set("maxmemory", "0")
    a.receive(*range(200, 300))
    newcomer = make_host("newcomer", fetch_snapshot=a.snapshots())
    for host in (a, b, sidecar, newcomer):
        await host.until_it_has(set(range(300)))
        await host.until_level()
        assert host.follower.state.gap == ""


def _ids(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return [entry_id for entry_id, _ in client.xrange(STREAM)]
