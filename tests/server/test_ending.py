"""The end of the real process by SIGTERM, whatever its clients and its threads are waiting for."""

import fcntl
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.devoperator import DevOperator
from tests.support.hung_mount import hung_mount
from tests.support.metrics_page import scrape
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import PROGRAM, Sidecar, environment, operator_settings, wait_until

# Far above what the process takes, and far below its other time-outs, which do not matter here.
LIMIT_S = 20.0
NEVER_S = 600
GET = make_request("/metrics", method="GET")
POST = make_request("/decrypt", {"token": "abcd"})
WORKERS = pytest.mark.parametrize("workers", [1, 2])
WORKERS_AND_SIGNALS = pytest.mark.parametrize(("workers", "signals"), [(1, 2), (2, 1)])


def stuck_requests(complete: bytes) -> list[bytes]:
    """What clients send that then neither send nor read anything."""
    half_a_body = make_request("/decrypt", headers={"Content-Length": "17"}) + b'{"token": '
    chunked = make_request("/decrypt", headers={"Transfer-Encoding": "chunked"}) + b"5\r\nhal"
    return [b"", complete[:15], complete[:-3], half_a_body, chunked, complete * 400]


def send_stuck(connection: Connection, data: bytes) -> None:
    """Send as much as fits, without reading."""
    connection.socket.settimeout(0.2)
    with suppress(TimeoutError, ssl.SSLError):
        connection.socket.sendall(data)


def client_hello(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@contextmanager
def stuck_clients(sidecar: Sidecar, unix: str, tls: ssl.SSLContext | None) -> Iterator[None]:
    """Every kind of stuck client, on every listener."""
    with ExitStack() as stack:
        for address, complete, context in [(sidecar.data, POST, tls), (unix, POST, None), (sidecar.admin, GET, None)]:
            for data in stuck_requests(complete):
                send_stuck(stack.enter_context(Connection(address, tls=context)), data)
        if tls is not None:
            hello = client_hello(tls)
            for data in (b"", hello[:1], hello[:-1], hello):
                send_stuck(stack.enter_context(Connection(sidecar.data)), data)
        yield


def settings_for(operator: DevOperator, unix: str, **settings: Any) -> dict[str, Any]:
    never = dict.fromkeys(("idle_timeout", "request_timeout", "drain_timeout"), NEVER_S)
    return operator_settings(operator) | never | {"listen": f"127.0.0.1:0,{unix}"} | settings


@pytest.mark.parametrize(("workers", "has_tls"), [(1, False), (2, True)], ids=["plain-1", "tls-2"])
def test_stuck_clients_hold_it_for_the_drain_time_out_only(
    operator: DevOperator,
    tmp_path: Path,
    tls_files: dict[str, str],
    client_tls: ssl.SSLContext,
    workers: int,
    *,
    has_tls: bool,
) -> None:
    unix = f"unix:{tmp_path}/data.sock"
    settings = settings_for(operator, unix, workers=workers, drain_timeout=1) | (tls_files if has_tls else {})
    with (
        Sidecar(tmp_path, **settings) as sidecar,
        stuck_clients(sidecar.wait_ready(), unix, client_tls if has_tls else None),
    ):
        sidecar.signal(signal.SIGTERM)
        assert sidecar.process.wait(LIMIT_S) == 0
        assert sidecar.has_logged("drain timed out")
        assert sidecar.has_logged("stopped")
    assert not Path(unix.removeprefix("unix:")).exists()


@WORKERS
def test_a_second_sigterm_ends_it_whatever_its_clients_do(
    operator: DevOperator, tmp_path: Path, tls_files: dict[str, str], client_tls: ssl.SSLContext, workers: int
) -> None:
    unix = f"unix:{tmp_path}/data.sock"
    settings = settings_for(operator, unix, workers=workers) | tls_files
    with Sidecar(tmp_path, **settings) as sidecar, stuck_clients(sidecar.wait_ready(), unix, client_tls):
        sidecar.signal(signal.SIGTERM)
        wait_until(lambda: sidecar.has_logged("draining"), "the first signal")
        assert sidecar.process.poll() is None
        sidecar.signal(signal.SIGTERM)
        assert sidecar.process.wait(LIMIT_S) == 0
        assert sidecar.has_logged("stopped")


def test_silent_tls_clients_do_not_hold_a_drain(
    operator: DevOperator, tmp_path: Path, tls_files: dict[str, str], client_tls: ssl.SSLContext
) -> None:
    hello = client_hello(client_tls)
    with ExitStack() as stack:
        sidecar = stack.enter_context(Sidecar(tmp_path, **settings_for(operator, "127.0.0.1:0") | tls_files))
        sidecar.wait_ready()
        for data in (b"", hello[:1], hello[:-1], hello):
            send_stuck(stack.enter_context(Connection(sidecar.data)), data)
        wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 4, "the connections")
        sidecar.signal(signal.SIGTERM)
        assert sidecar.process.wait(LIMIT_S) == 0
        assert sidecar.has_logged("stopped")


@WORKERS
def test_a_second_sigterm_ends_it_while_the_admin_plane_is_busy(
    operator: DevOperator, tmp_path: Path, workers: int
) -> None:
    """Clients scrape as fast as they can until the end."""

    def scrape_for_ever(address: str) -> None:
        with suppress(OSError, EOFError), Connection(address) as connection:
            while True:
                connection.send(GET)
                connection.receive()

    unix = f"unix:{tmp_path}/data.sock"
    with Sidecar(tmp_path, **settings_for(operator, unix, workers=workers)) as sidecar:
        sidecar.wait_ready()
        threads = [threading.Thread(target=scrape_for_ever, args=(sidecar.admin,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        with Connection(unix) as begun:
            send_stuck(begun, POST[:-3])
            sidecar.signal(signal.SIGTERM)
            wait_until(lambda: sidecar.has_logged("draining"), "the first signal")
            sidecar.signal(signal.SIGTERM)
            assert sidecar.process.wait(LIMIT_S) == 0
        for thread in threads:
            thread.join(LIMIT_S)


@WORKERS_AND_SIGNALS
def test_a_refresh_that_waits_for_a_hung_mount_does_not_keep_it(
    operator: DevOperator, tmp_path: Path, workers: int, signals: int
) -> None:
    good, hung, link = tmp_path / "good", tmp_path / "hung", tmp_path / "link"
    good.mkdir()
    hung.mkdir()
    link.symlink_to(good)
    unix = f"unix:{tmp_path}/data.sock"
    settings = settings_for(operator, unix, key_cache=link / "keys", workers=workers)
    with ExitStack() as stack:
        sidecar = stack.enter_context(Sidecar(tmp_path, **settings | ({"drain_timeout": 1} if signals == 1 else {})))
        # The worst value of the workers: 0 until all have keys.
        wait_until(lambda: last_refresh_s(sidecar), "the first refresh of all workers")
        mount = stack.enter_context(hung_mount(hung))
        link.unlink()
        link.symlink_to(mount)
        before_s = last_refresh_s(sidecar)
        sidecar.signal(signal.SIGHUP)
        wait_until(lambda: last_refresh_s(sidecar) > before_s, "all workers to save what they got")
        assert ask(unix, "/decrypt", {"token": "abcd"}).status == 200
        begun = stack.enter_context(Connection(unix))
        send_stuck(begun, POST[:-3])
        for number in range(signals):
            sidecar.signal(signal.SIGTERM)
            if number == 0:
                wait_until(lambda: sidecar.has_logged("draining"), "the first signal")
        assert sidecar.process.wait(LIMIT_S) == 0
        assert sidecar.has_logged("thread left behind")


def test_a_name_that_is_being_looked_up_does_not_keep_it(operator: DevOperator, tmp_path: Path) -> None:
    """The interpreter would wait at its end for the thread in which asyncio resolves names."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    (tmp_path / "resolv.conf").write_text("nameserver 127.9.9.9\noptions timeout:30 attempts:5\n")
    mount = ["sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(tmp_path / "resolv.conf")]
    settings = operator_settings(operator) | {"operator_url": "https://operator.test"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.9.9.9", 53))
        silent.settimeout(LIMIT_S)
        with Sidecar(tmp_path, program=["unshare", "--mount", *mount, *PROGRAM], **settings) as sidecar:
            assert b"operator" in silent.recv(512)
            assert sidecar.stop() == 0
            assert sidecar.has_logged("thread left behind")


@WORKERS_AND_SIGNALS
def test_it_ends_while_its_log_cannot_be_written(
    operator: DevOperator, tmp_path: Path, workers: int, signals: int
) -> None:
    """The serving loop waits in a write to a full pipe: no code of the loop runs any more."""
    settings = operator_settings(operator) | {
        "listen": f"unix:{tmp_path}/data.sock",
        "admin_listen": f"unix:{tmp_path}/admin.sock",
        "drain_timeout": 1 if signals == 1 else NEVER_S,
        "workers": workers,
    }
    reading, writing = os.pipe()
    process = subprocess.Popen([*PROGRAM, "serve"], env=environment(settings), stderr=writing)
    try:
        wait_until((tmp_path / "admin.sock").exists, "the socket that is bound last")
        wait_until(lambda: ask(f"unix:{tmp_path}/admin.sock", "/readyz", method="GET").status == 200, "/readyz")
        fill(writing)
        process.send_signal(signal.SIGTERM)
        if signals == 1:
            assert process.wait(LIMIT_S) == 1
        else:
            while process.poll() is None:  # a signal is lost while an earlier one is pending
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1)
            assert process.returncode == 1
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def last_refresh_s(sidecar: Sidecar) -> float:
    return scrape(sidecar.admin).total("bidstream_key_refresh_last_success_timestamp_seconds")


def fill(pipe: int) -> None:
    flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 512)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags)


@pytest.mark.parametrize("thread", ["admin_server.AdminServer._serve", "service.RefreshThread._refresh"])
def test_it_ends_with_an_error_when_a_thread_has_failed(operator: DevOperator, tmp_path: Path, thread: str) -> None:
    """Nothing replaces the thread: a service without keys or health has to be started again."""
    module, owner, method = thread.split(".")
    program = f"""
from bidstream_svc.cli import main
from bidstream_svc.server import {module}

async def fail(self):
    raise RuntimeError

{module}.{owner}.{method} = fail
main()
"""
    settings = operator_settings(operator) | {"listen": f"unix:{tmp_path}/data.sock", "admin_listen": "127.0.0.1:0"}
    process = subprocess.run(
        [sys.executable, "-c", program, "serve"],
        env=environment(settings),
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert process.returncode == 1
    assert b"thread failed" in process.stderr
    assert process.stderr.endswith(b"bidstream-svc: a thread of the service failed; the log says why\n")
    assert not (tmp_path / "data.sock").exists()
