"""A client that sends requests and then half-closes its connection gets all answers."""

import socket
from pathlib import Path

import pytest

from bidstream_svc.devoperator import DevOperator
from tests.fastpath.corpus import BATCH, BODY, CHUNKED, GOOD, LARGE_BATCH, make
from tests.support.raw_http import Connection
from tests.support.sidecar import operator_settings, service_in_thread

SHAPES = {
    "one": ([GOOD], [200]),
    "ten": ([GOOD] * 10, [200] * 10),
    "hundreds": ([GOOD] * 300, [200] * 300),
    "hundreds, then chunked": ([*[GOOD] * 300, CHUNKED, GOOD], [200] * 302),
    "chunked": ([CHUNKED, CHUNKED], [200, 200]),
    "batch": ([LARGE_BATCH, GOOD, BATCH], [200, 200, 200]),
    "batch, then chunked": ([LARGE_BATCH, CHUNKED], [200, 200]),
    "expect": ([make(BODY, "Expect: 100-continue")], [100, 200]),
    "upgrade": ([make(BODY, "Connection: Upgrade", "Upgrade: h2c"), GOOD], [200, 200]),
    "nowhere": ([make(target="/nowhere"), GOOD], [404, 200]),
    "garbage": ([GOOD, GOOD, b"garbage\r\n\r\n"], [200, 200, 400]),
}


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{}/x.sock"])
def test_a_half_closed_connection_gets_its_answers(
    operator: DevOperator, tmp_path: Path, listen: str, *, has_fast_path: bool
) -> None:
    settings = operator_settings(operator) | {"listen": listen.format(tmp_path)}
    with service_in_thread(has_fast_path=has_fast_path, **settings) as service:
        for name, (requests, expected) in SHAPES.items():
            for _ in range(5):
                with Connection(service.data) as client:
                    client.send(b"".join(requests))
                    client.socket.shutdown(socket.SHUT_WR)
                    assert [client.receive().status for _ in expected] == expected, name
                    assert client.is_closed_by_peer()
