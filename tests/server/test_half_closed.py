"""A client that sends requests and then half-closes its connection gets all answers."""

import socket
import ssl
from pathlib import Path

import pytest

from bidstream_svc.devoperator import DevOperator
from tests.fastpath.corpus import BATCH, BODY, CHUNKED, GOOD, LARGE_BATCH, make
from tests.fastpath.support import split_answers
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


class TlsClient:
    """A client that chooses what its segments hold."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 10)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(self._socket.recv(65536))
        self._flush()

    def send_and_end(self, data: bytes) -> None:
        """Send data and the end of TLS at once."""
        while data:
            data = data[self._tls.write(data) :]
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._flush()

    def receive_all(self) -> bytes:
        """What the server sends until it closes the connection."""
        received = b""
        while True:
            try:
                data = self._tls.read(65536)
            except ssl.SSLWantReadError:
                self._incoming.write(data := self._socket.recv(65536))
            except ssl.SSLZeroReturnError:
                data = b""
            else:
                received += data
            if not data:
                self._socket.close()
                return received

    def _flush(self) -> None:
        self._socket.sendall(self._outgoing.read())


def test_requests_that_arrive_with_the_end_of_tls_are_answered(
    operator: DevOperator, tls_files: dict[str, str], client_tls: ssl.SSLContext, *, has_fast_path: bool
) -> None:
    settings = operator_settings(operator) | tls_files
    with service_in_thread(has_fast_path=has_fast_path, **settings) as service:
        for name, (requests, expected) in SHAPES.items():
            for _ in range(5):
                client = TlsClient(service.data, client_tls)
                client.send_and_end(b"".join(requests))
                assert [answer.status for answer in split_answers(client.receive_all())] == expected, name
