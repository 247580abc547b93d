"""The stream of opt-outs with a real server."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from bidstream_svc.optouts.stream_client import StreamSettings
from tests.optouts.fleet import Host
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
