"""Connections that arrive while none is accepted wait in the listen backlog and are served later."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from bidstream_svc.devoperator import DevOperator
from tests.support.raw_http import make_request
from tests.support.sidecar import operator_settings, service_in_thread

CONNECTIONS = 200  # twice the backlog that asyncio sets where it is told no other
REQUEST = make_request("/decrypt", {"token": "abcd"})


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_rush_waits_for_a_service_that_is_busy(operator: DevOperator, tmp_path: Path, kind: str) -> None:
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) < CONNECTIONS:
        pytest.skip("the kernel of this machine lets fewer wait")
    listen = f"unix:{tmp_path}/data.sock" if kind == "unix" else "127.0.0.1:0"
    with service_in_thread(listen=listen, **operator_settings(operator)) as service, ExitStack() as stack:
        with service.paused():
            clients = [stack.enter_context(service.connect()).socket for _ in range(CONNECTIONS)]
            for client in clients:
                client.sendall(REQUEST)
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
