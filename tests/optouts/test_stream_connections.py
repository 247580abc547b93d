"""Ways to connect to the server of the stream: TLS, a Unix socket, passwords and access rules; to Redis and Valkey."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from shutil import which

import pytest
import trustme

from bidstream_svc.core.errors import OptOutStreamError
from bidstream_svc.optouts.stream_client import StreamClient, StreamSettings
from tests.optouts.fleet import MakeHost, until
from tests.support.certificates import CertificateFiles
from tests.support.redis_server import PROGRAM, RedisServer

STREAM = "bidstream:optouts"
GUIDE = Path(__file__).parents[2] / "docs" / "optouts.md"
# Few distributions have Valkey yet, so these tests do without it even where all tools are required.
VALKEY = pytest.param("valkey-server", marks=pytest.mark.skipif(which("valkey-server") is None, reason="no Valkey"))
pytestmark = [
    pytest.mark.needs_tools(PROGRAM),
    pytest.mark.parametrize("program", [PROGRAM, VALKEY]),
    pytest.mark.timeout(300),
]


@pytest.fixture
def server(tmp_path: Path, program: str) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "server", program=program) as server:
        yield server


async def test_what_it_holds_is_the_same_on_both(make_host: MakeHost, server: RedisServer) -> None:
    a, sidecar = make_host("a", is_receiver=True), make_host("sidecar")
    a.receive(1)
    await sidecar.until_it_has({1})
    server.kill()  # which loses it
    a.receive(2)
    server.start()
    newcomer = make_host("newcomer", fetch_snapshot=a.snapshots())
    for host in (sidecar, newcomer):
        await host.until_it_has({1, 2})
        await host.until_level()
        assert host.follower.state.gap == ""


async def test_tls(make_host: MakeHost, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a certificate is told, and a new one needs no restart of anybody."""
    ours, authority_file = trustme.CA(), tmp_path / "authority.pem"
    ours.cert_pem.write_to_path(authority_file)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
    settings = StreamSettings(_serve_tls(server, tmp_path, trustme.CA()), STREAM, timeout_s=2.0)
    a, sidecar = (make_host(name, is_receiver=name == "a", settings=settings) for name in ("a", "sidecar"))
    a.receive(1)

    async def until_told(problem: str) -> None:
        for host in (a, sidecar):
            await until(lambda: problem in host.follower.state.error, f"{host.follower.state}")  # noqa: B023
        await until(lambda: problem in a.publisher.state.error, f"{a.publisher.state}")
        assert not sidecar.has({1})

    await until_told("the server's certificate is not trusted")
    files = CertificateFiles(tmp_path, ours)
    files.renew(files.issue(begins=timedelta(days=-2), lasts=timedelta(days=1)))
    _use_certificate(server, files)
    await until_told("the server's certificate has expired")
    files.renew(files.issue(begins=timedelta(days=2)))
    _use_certificate(server, files)
    await until_told("the server's certificate is not valid yet")
    files.renew(ours.issue_cert("another.example"))
    _use_certificate(server, files)
    await until_told("the server's certificate is for another host name")
    files.renew()
    _use_certificate(server, files)
    await sidecar.until_it_has({1})
    await sidecar.until_level()
    assert a.publisher.state.is_connected


def _serve_tls(server: RedisServer, directory: Path, authority: trustme.CA) -> str:
    """Serve TLS, too. Returns the URL."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    _use_certificate(server, CertificateFiles(directory, authority))
    with server.client() as client:
        client.config_set("tls-port", port)
    return f"rediss://localhost:{port}/0"


def _use_certificate(server: RedisServer, files: CertificateFiles) -> None:
    with server.client() as client:
        client.config_set(
            "tls-cert-file",
            str(files.certificate),
            "tls-key-file",
            str(files.key),
            "tls-ca-cert-file",
            str(files.certificate),
            "tls-auth-clients",
            "no",
        )


async def test_tls_that_requires_a_certificate_of_the_client(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    url = _serve_tls(server, tmp_path, authority)
    await _inspect(StreamSettings(url, STREAM))
    with server.client() as client:
        client.config_set("tls-auth-clients", "yes")
    with pytest.raises(OptOutStreamError, match=r"^(TLS with the server fails|cannot reach the server \(.*\))$"):
        await _inspect(StreamSettings(url, STREAM))
    with pytest.raises(OptOutStreamError, match=r"^cannot reach the server \("):
        await _inspect(StreamSettings(url.replace("rediss://", "redis://"), STREAM))


async def _inspect(settings: StreamSettings) -> None:
    client = StreamClient(settings)
    try:
        await client.inspect()
    finally:
        await client.close()


async def test_a_unix_socket_and_another_database(make_host: MakeHost, server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    settings = StreamSettings(f"unix://{path}?db=3", STREAM, timeout_s=2.0)
    a, sidecar = make_host("a", is_receiver=True, settings=settings), make_host("sidecar", settings=settings)
    a.receive(1)
    await until(lambda: "No such file" in a.publisher.state.error, f"{a.publisher.state}")
    server.kill()
    server.start("--unixsocket", str(path))
    await sidecar.until_it_has({1})
    await sidecar.until_level()
    with server.client(db=3) as client:
        assert client.xlen(STREAM) == 1


async def test_a_server_that_nobody_listens_at(server: RedisServer) -> None:
    server.kill()
    with pytest.raises(OptOutStreamError, match=r"^cannot reach the server \(Connection refused\)$"):
        await _inspect(StreamSettings(server.url, STREAM))


def _rights() -> list[str]:
    """Of the user in the guide: the arguments of ACL SETUSER behind its name."""
    lines = GUIDE.read_text("utf-8").splitlines()
    line = next(line for line in lines if line.startswith("ACL SETUSER bidstream "))
    return line.replace("PASSWORD", "s3cret").split()[3:]


async def test_a_user_with_the_fewest_rights(make_host: MakeHost, server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "bidstream", *_rights())
        may_only_read = [right for right in _rights() if right not in {"+xadd", "+xtrim"}]
        client.execute_command("ACL", "SETUSER", "reader", *may_only_read)
        client.execute_command("ACL", "SETUSER", "default", "off")
    files = {user: tmp_path / f"{user}-password" for user in ("bidstream", "reader")}
    for user, file in files.items():
        file.write_text(f"{user}:wrong\n")
    a, sidecar, reader = (
        make_host(name, is_receiver=name != "sidecar", settings=StreamSettings(server.url, STREAM, file, timeout_s=2.0))
        for name, file in (("a", files["bidstream"]), ("sidecar", files["bidstream"]), ("reader", files["reader"]))
    )
    a.receive(1)
    reader.receive(2)
    await until(lambda: "password" in a.publisher.state.error, f"{a.publisher.state}")
    await until(lambda: "password" in sidecar.follower.state.error, f"{sidecar.follower.state}")
    for user, file in files.items():
        file.write_text(f"{user}:s3cret\n")
    await sidecar.until_it_has({1})
    await sidecar.until_level()
    await until(lambda: "access rules" in reader.publisher.state.error, f"{reader.publisher.state}")
    await reader.until_it_has({1})
    assert not sidecar.has({2})


async def test_a_command_that_is_forbidden_does_not_cost_the_connection(server: RedisServer, tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    password_file.write_text("bidstream:s3cret")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "bidstream", *(right for right in _rights() if right != "+role"))
        stream = StreamClient(StreamSettings(server.url, STREAM, password_file))
        await stream.inspect()
        before = client.info("stats")["total_connections_received"]
        for _ in range(5):
            assert not await stream.is_cut_off()
            await stream.inspect()
        assert client.info("stats")["total_connections_received"] == before
        await stream.close()


async def test_a_user_that_is_forbidden_to_connect_can_be_replaced(server: RedisServer, tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    password_file.write_text("bidstream:s3cret")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "bidstream", *_rights())
        client.execute_command("ACL", "SETUSER", "other", *_rights(), "+select")
    stream = StreamClient(StreamSettings(server.url.removesuffix("0") + "3", STREAM, password_file))
    with pytest.raises(OptOutStreamError, match="access rules"):
        await stream.inspect()
    password_file.write_text("other:s3cret")
    await stream.inspect()
    await stream.close()


async def test_a_call_that_is_cancelled_ends_at_any_moment(server: RedisServer) -> None:
    """A task that has been cancelled and goes on would keep its process from ending."""
    client = StreamClient(StreamSettings(server.url, STREAM))
    await client.inspect()
    for moment in range(60):
        call = asyncio.create_task(client.inspect())
        for _ in range(moment):
            await asyncio.sleep(0)
        if call.cancel():
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            with suppress(OptOutStreamError):
                await call
    await client.close()
