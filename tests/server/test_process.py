"""The real process: start without an operator, signals, exit status."""

import signal
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.state import Lifetimes
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.processes import children
from tests.support.raw_http import Connection, Response, ask, make_request
from tests.support.sidecar import DEADLINE_S, PROGRAM, Sidecar, environment, operator_settings, wait_until

HALF = make_request("/decrypt", headers={"Content-Length": "17"}) + b'{"token": '
OTHER_HALF = b'"abcd"}'


def decrypt(sidecar: Sidecar, token: str) -> str:
    return str(ask(sidecar.data, "/decrypt", {"token": token}).json["status"])


def ready(sidecar: Sidecar) -> Response:
    return ask(sidecar.admin, "/readyz", method="GET")


def test_from_a_late_operator_to_expired_keys(tmp_path: Path) -> None:
    with operator_in_thread(OperatorState(seed=9)) as operator:
        settings = operator_settings(operator)
    port = int(operator.url.rpartition(":")[2])
    with Sidecar(tmp_path, refresh_interval=0.2, **settings) as sidecar:
        assert decrypt(sidecar, "abcd") == "NOT_INITIALIZED"
        assert ready(sidecar).status == 503
        assert "cannot connect" in ready(sidecar).json["reason"]
        assert ask(sidecar.admin, "/startupz", method="GET").status == 503

        # Keys are made an hour old: two seconds remain.
        state = OperatorState(seed=9, lifetimes=Lifetimes(key_s=3602))
        with operator_in_thread(state, port=port):
            sidecar.signal(signal.SIGHUP)
            wait_until(lambda: ready(sidecar).status == 200, "keys")
            token = state.mint_token()
            assert decrypt(sidecar, token) == "SUCCESS"

        wait_until(lambda: decrypt(sidecar, token) == "KEYS_NOT_SYNCED", "the keys to expire")
        assert decrypt(sidecar, "") == "KEYS_NOT_SYNCED"
        assert (ready(sidecar).status, ready(sidecar).json["reason"]) == (503, "all keys have expired")
        assert ask(sidecar.admin, "/startupz", method="GET").status == 200
        assert ask(sidecar.admin, "/livez", method="GET").status == 200

        with operator_in_thread(OperatorState(seed=9), port=port) as operator:
            sidecar.signal(signal.SIGHUP)
            wait_until(lambda: decrypt(sidecar, operator.state.mint_token()) == "SUCCESS", "fresh keys")

        assert sidecar.stop() == 0
        assert [line["event"] for line in sidecar.log if line["level"] == "info"][-2:] == ["draining", "stopped"]
        assert sidecar.stdout == ""


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=10)) as running:
        yield running


def test_sigterm_lets_what_has_begun_end(operator: DevOperator, tmp_path: Path) -> None:
    with Sidecar(tmp_path, **operator_settings(operator)) as sidecar:
        sidecar.wait_ready()
        begun, idle, late = (Connection(sidecar.data) for _ in range(3))
        assert idle.ask("/decrypt", {"token": "abcd"}).status == 200
        begun.send(HALF)

        sidecar.signal(signal.SIGTERM)
        wait_until(lambda: ready(sidecar).status == 503, "/readyz to say that it drains")
        assert ready(sidecar).json["reason"] == "draining"
        assert ask(sidecar.admin, "/info", method="GET").json["draining"] is True
        # What still comes is served, and told not to come again.
        for request in (make_request("/decrypt", {"token": "abcd"}), make_request("/nowhere")):
            with Connection(sidecar.data) as another:
                another.send(request)
                answer = another.receive()
                assert answer.status in {200, 404}
                assert answer.closes
                assert another.is_closed_by_peer()

        assert idle.is_closed_by_peer()
        wait_until(lambda: not accepts(sidecar.data), "the listener to close")
        assert sidecar.process.poll() is None
        begun.send(OTHER_HALF)
        answer = begun.receive()
        assert (answer.status, answer.json["status"]) == (200, "VERSION_NOT_SUPPORTED")
        assert answer.closes
        assert begun.is_closed_by_peer()
        assert sidecar.process.wait(10) == 0
        for connection in (begun, idle, late):
            connection.socket.close()


def accepts(address: str) -> bool:
    try:
        Connection(address).socket.close()
    except ConnectionError:
        return False
    return True


def test_a_second_signal_ends_it_at_once(operator: DevOperator, tmp_path: Path) -> None:
    with Sidecar(tmp_path, drain_timeout=600, request_timeout=600, **operator_settings(operator)) as sidecar:
        with Connection(sidecar.data) as begun:
            begun.send(HALF)
            wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 1, "the connection")
            sidecar.signal(signal.SIGINT)
            wait_until(lambda: sidecar.has_logged("draining"), "the first signal")
            assert sidecar.stop() == 0
            assert begun.is_closed_by_peer()
        assert sidecar.has_logged("stopped")


def test_sockets_tls_and_bearer_by_settings(operator: DevOperator, tmp_path: Path) -> None:
    server, clients = trustme.CA(), trustme.CA()
    certificate = server.issue_cert("localhost")
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    clients.cert_pem.write_to_path(tmp_path / "clients.pem")
    (tmp_path / "bearer").write_text("made-up\n")
    unix = tmp_path / "data.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(unix))
    context = ssl.create_default_context()
    server.configure_trust(context)
    clients.issue_cert("bidder").configure_cert(context)

    settings = operator_settings(operator) | {
        "listen": f"127.0.0.1:0,unix:{unix}",
        "tls_cert": tmp_path / "cert.pem",
        "tls_key": tmp_path / "key.pem",
        "tls_client_ca": tmp_path / "clients.pem",
        "auth_token_file": tmp_path / "bearer",
    }
    good = {"Authorization": "Bearer made-up"}
    with Sidecar(tmp_path, **settings) as sidecar:
        sidecar.wait_ready()
        assert stat.S_IMODE(unix.stat().st_mode) == 0o660
        token = {"token": operator.state.mint_token()}
        assert ask(sidecar.data, "/decrypt", token, tls=context, headers=good).json["status"] == "SUCCESS"
        assert ask(f"unix:{unix}", "/decrypt", token, headers=good).json["status"] == "SUCCESS"
        assert ask(f"unix:{unix}", "/decrypt", token).status == 401

        (tmp_path / "bearer").write_text("rotated\n")
        sidecar.signal(signal.SIGHUP)
        rotated = {"Authorization": "Bearer rotated"}
        wait_until(lambda: ask(f"unix:{unix}", "/decrypt", token, headers=rotated).status == 200, "the new token")
        assert ask(sidecar.data, "/decrypt", token, tls=context, headers=good).status == 401

        assert sidecar.stop() == 0
        assert not unix.exists()


# Signals in the first moments.


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sigterm_during_the_start_ends_it_with_status_0_and_leaves_nothing(
    operator: DevOperator, tmp_path: Path, workers: int
) -> None:
    settings = operator_settings(operator) | {"listen": f"unix:{tmp_path}/data.sock", "admin_listen": ""}
    environ = environment(settings | {"workers": workers})
    for delay_s in (0.1, 0.2, 0.4, 0.8):
        with subprocess.Popen([*PROGRAM, "serve"], env=environ, stderr=subprocess.PIPE, cwd=tmp_path) as process:
            time.sleep(delay_s)  # the interpreter itself has to start first, which takes less
            # A parent that waits for signals has them neither blocked nor handled meanwhile.
            wait_until(
                lambda: has_blocked(process.pid, signal.SIGTERM) or children(process.pid), "the program to begin"
            )
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors
        assert b"Traceback" not in errors
        assert b'"stopped"' in errors
        assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_modules_are_imported_is_one_line() -> None:
    with subprocess.Popen(
        [*PROGRAM, "check"], env=environment({}), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        wait_until(
            lambda: has_blocked(process.pid, signal.SIGINT) or process.poll() is not None, "the program to begin"
        )
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert errors.lstrip(b"\n") == b"bidstream-svc: interrupted\n"  # click ends the line with ^C


def has_blocked(pid: int, number: signal.Signals) -> bool:
    """Whether a process blocks or handles a signal by itself; what it gets before is not its doing."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    masks = {
        name: int(value, 16)
        for name, value in (line.split(":") for line in lines if line.startswith("Sig"))
        if "/" not in value
    }
    handled = masks["SigBlk"] | (masks["SigCgt"] if number is not signal.SIGINT else 0)
    return bool(handled >> (number - 1) & 1)
