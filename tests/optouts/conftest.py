"""A server with a stream, and hosts that share it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bidstream_svc.optouts.stream_client import StreamSettings
from tests.optouts.fleet import Host, MakeHost
from tests.support.redis_server import RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
async def make_host(tmp_path: Path, server: RedisServer) -> AsyncIterator[MakeHost]:
    """Start a host, by default with the stream of that server. It is stopped at the end."""
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
