"""`health` against a running service, and against everything else."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from bidstream_svc.devoperator import DevOperator
from tests.support.cli import Cli
from tests.support.operator import operator_in_thread
from tests.support.sidecar import RunningService, environment, operator_settings, service_in_thread


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sockets")


@pytest.fixture(scope="module")
def service(operator: DevOperator, sockets: Path) -> Iterator[RunningService]:
    listen = f"127.0.0.1:0,unix:{sockets}/admin.sock"
    with service_in_thread(admin_listen=listen, **operator_settings(operator)) as running:
        yield running


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [(None, "keys are good"), ("/livez", "the event loop turns"), ("/startupz", "keys have been loaded")],
)
def test_a_healthy_service(cli: Cli, service: RunningService, endpoint: str | None, reason: str) -> None:
    outcome = cli("health", *(["--endpoint", endpoint] if endpoint else []), admin_listen=service.admin)
    assert outcome == (0, f"{endpoint or '/readyz'} at {service.admin}: {reason}\n", "")


def test_the_address_may_be_a_flag_a_unix_socket_or_every_address(
    cli: Cli, service: RunningService, sockets: Path
) -> None:
    assert cli("health", "--admin-listen", f"unix:{sockets}/admin.sock").status == 0
    port = service.admin.rpartition(":")[2]
    assert cli("health", admin_listen=f"systemd:admin,127.0.0.1:0,0.0.0.0:{port}").out.startswith(
        f"/readyz at 127.0.0.1:{port}: "
    )


def test_a_service_without_keys(cli: Cli) -> None:
    with operator_in_thread() as operator:
        settings = operator_settings(operator)
    with service_in_thread(started=False, **settings) as service:
        outcome = cli("health", admin_listen=service.admin)
        assert outcome.status == 1
        assert f"bidstream-svc: /readyz at {service.admin}: 503: no keys yet: " in outcome.err
        assert cli("health", "--endpoint", "/livez", admin_listen=service.admin).status == 0


@pytest.mark.parametrize("admin_listen", ["", "systemd:admin", "127.0.0.1:0"])
def test_an_address_without_host_and_port(cli: Cli, admin_listen: str) -> None:
    outcome = cli("health", admin_listen=admin_listen)
    assert outcome.status == 2
    assert outcome.complaint.startswith("BIDSTREAM_ADMIN_LISTEN: no address to connect to")


def test_connection_refused(cli: Cli, sockets: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    assert cli("health", admin_listen=address).complaint == f"/readyz at {address}: no answer: Connection refused"
    missing = f"unix:{sockets}/missing.sock"
    assert cli("health", admin_listen=missing).complaint.endswith("no answer: No such file or directory")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "no answer: Remote end closed connection without response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is not from bidstream-svc"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n[]", "the answer is not from bidstream-svc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", "the answer is not from bidstream-svc"),
    ],
)
def test_an_answer_of_another_program(cli: Cli, answer: bytes, complaint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            connection = server.accept()[0]
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = Thread(target=reply)
        thread.start()
        outcome = cli("health", admin_listen=f"127.0.0.1:{server.getsockname()[1]}")
        thread.join(10)
    assert outcome.status == 1
    assert outcome.complaint.endswith(complaint)


def test_timeout(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["bidstream_svc.cli.health_command"], "_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert cli("health", admin_listen=address).complaint.endswith("no answer: timed out")


RUN_AND_LIST = """
import sys
from bidstream_svc.cli import main
sys.argv[0] = "bidstream-svc"
try:
    main()
finally:
    print(*sys.modules)
"""


def test_it_imports_no_server_modules(service: RunningService) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST, "health"],
        env=environment({"admin_listen": service.admin}),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "bidstream_svc.cli.health_command" in loaded
    assert not loaded & {
        "asyncio",
        "aiohttp",
        "structlog",
        "uvloop",
        "prometheus_client",
        "bidstream_svc.cli.serve_command",
    }
