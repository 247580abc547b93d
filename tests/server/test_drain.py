"""Draining a service in this process; tests/server/test_process.py has draining by signals."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from structlog.testing import capture_logs

from bidstream_svc.devoperator import DevOperator
from tests.support.metrics_page import scrape
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import DEADLINE_S, RunningService, operator_settings, service_in_thread, wait_until

BODY = b'{"token": "abcd"}'
HALF = make_request("/decrypt", headers={"Content-Length": str(len(BODY))}) + BODY[:9]


@contextmanager
def begun_request(service: RunningService) -> Iterator[Connection]:
    """A connection with half a request on it."""
    with service.connect() as connection:
        connection.send(HALF)
        wait_until(lambda: scrape(service.admin).value("bidstream_connections") == 1, "the connection")
        yield connection


def test_who_takes_too_long_is_left_behind(operator: DevOperator, *, has_fast_path: bool) -> None:
    settings = {"drain_timeout": 0.1, "request_timeout": 600, **operator_settings(operator)}
    with (
        capture_logs() as log,
        service_in_thread(has_fast_path=has_fast_path, **settings) as service,
        begun_request(service),
    ):
        asyncio.run_coroutine_threadsafe(service.service.drain(), service.loop).result(DEADLINE_S)
        (line,) = [line for line in log if line["event"] == "drain timed out"]
        assert line["connections"] == 1


def test_a_successor_on_the_same_socket_outlives_the_first(
    operator: DevOperator, tmp_path: Path, *, has_fast_path: bool
) -> None:
    unix = f"unix:{tmp_path}/data.sock"
    settings = {"listen": unix, "drain_timeout": 60, "has_fast_path": has_fast_path, **operator_settings(operator)}
    with ExitStack() as end_of_first:
        first = end_of_first.enter_context(service_in_thread(**settings))
        with begun_request(first) as begun:
            draining = asyncio.run_coroutine_threadsafe(first.service.drain(), first.loop)
            wait_until(lambda: not accepts(unix), "the first to stop listening")
            with service_in_thread(**settings):
                begun.send(BODY[9:])
                assert begun.receive().status == 200
                draining.result(DEADLINE_S)
                end_of_first.close()
                assert ask(unix, "/decrypt", {"token": "abcd"}).status == 200
    assert not accepts(unix)


def accepts(address: str) -> bool:
    try:
        Connection(address).socket.close()
    except (ConnectionError, FileNotFoundError):
        return False
    return True
