"""Listeners and access to them: Unix sockets, TLS, bearer tokens, the limit on connections."""

import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from bidstream_svc.addresses import TcpAddress, UnixAddress
from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import ConfigurationError, ListenError
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.server import refusal
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.sockets import Listeners, open_listeners, open_listeners_each
from tests.support.metrics_page import scrape
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until

GOOD = {"token": "abcd"}


def knows(address: str, *, tls: ssl.SSLContext | None = None) -> bool:
    return ask(address, "/decrypt", GOOD, tls=tls).status == 200


# Unix sockets.


def test_both_planes_may_be_unix_sockets(operator: DevOperator, tmp_path: Path, *, has_fast_path: bool) -> None:
    data, admin = tmp_path / "data.sock", tmp_path / "admin.sock"
    settings = {"listen": f"127.0.0.1:0,unix:{data}", "admin_listen": f"unix:{admin}", **operator_settings(operator)}
    with service_in_thread(has_fast_path=has_fast_path, **settings) as service:
        for path in (data, admin):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert knows(f"unix:{data}")
        assert knows(service.data)
        with Connection(f"unix:{data}") as connection:
            for target in ("/decrypt", "/decrypt", "/nowhere", "/decrypt"):
                assert connection.ask(target, GOOD).status == (404 if target == "/nowhere" else 200)
        assert ask(f"unix:{admin}", "/readyz", method="GET").status == 200
        assert scrape(f"unix:{admin}").value("bidstream_connections") <= 1
    assert list(tmp_path.iterdir()) == []


def test_a_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listeners = Listeners(open_listeners([UnixAddress(path)]), [])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listeners.close()
    assert not path.exists()


def test_a_socket_in_use_is_not_stolen(tmp_path: Path) -> None:
    path = tmp_path / "used.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match="another process listens on this path"):
            open_listeners([UnixAddress(path)])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_file_that_is_no_socket_is_not_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    if kind == "directory":
        path.mkdir()
    else:
        target = path if kind == "file" else tmp_path / "target"
        target.write_text("precious")
        if kind == "link":
            path.symlink_to(target)
    before = path.lstat()
    with pytest.raises(ListenError, match="not a socket"):
        open_listeners([UnixAddress(path)])
    assert path.lstat().st_ino == before.st_ino


def test_the_end_of_one_process_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    address = UnixAddress(tmp_path / "shared.sock")
    old = Listeners(open_listeners([address]), [])
    old.data[0].socket.close()  # as a process that drains does
    new = Listeners(open_listeners([address]), [])
    old.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address.path))
    new.close()
    assert not address.path.exists()


@pytest.mark.parametrize("path", ["/nonexistent/directory/x.sock", "/run/" + "x" * 200])
def test_a_path_that_cannot_be_bound_is_named(path: str) -> None:
    with pytest.raises(ListenError, match=path[:20]):
        open_listeners([UnixAddress(Path(path))])


# TCP.


def test_an_address_in_use_leaves_nothing_open(tmp_path: Path) -> None:
    unix = UnixAddress(tmp_path / "first.sock")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ListenError, match=rf"^BIDSTREAM_LISTEN: cannot listen on 127\.0\.0\.1:{port}: address already in use; "
        ):
            open_listeners([unix, TcpAddress("127.0.0.1", port)])
    assert not unix.path.exists()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(ListenError, match=f"cannot listen on {host}:1234: [a-z].*; choose another with --listen"):
        open_listeners([TcpAddress(host, 1234)])


def test_ipv6_and_several_addresses_at_once(operator: DevOperator) -> None:
    listen = "127.0.0.1:0, [::1]:0, localhost:0"
    with service_in_thread(listen=listen, **operator_settings(operator)) as service:
        addresses = [str(address) for address in service.service.data_addresses]
        assert len(addresses) >= 3
        assert any(address.startswith("[::1]:") for address in addresses)
        for address in addresses:
            assert knows(address)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "listen", ["[::]:{}", "0.0.0.0:{0},[::]:{0}", "[::]:{0},0.0.0.0:{0}", "127.0.0.1:{0},[::]:{0}"]
)
def test_the_wildcard_of_ipv6_takes_ipv4_unless_another_address_does(listen: str, workers: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = load_settings(listen=listen.format(port), admin_listen="", allow_unauthenticated="1", workers=workers)
    by_worker = open_listeners_each(settings, workers)
    try:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), 10).close()
    finally:
        for listeners in by_worker:
            listeners.close()


# TLS.


def test_tls_on_tcp_and_none_on_unix(
    operator: DevOperator, tls_files: dict[str, str], client_tls: ssl.SSLContext, tmp_path: Path, *, has_fast_path: bool
) -> None:
    settings = tls_files | operator_settings(operator) | {"listen": f"127.0.0.1:0,unix:{tmp_path}/x.sock"}
    with service_in_thread(has_fast_path=has_fast_path, **settings) as service:
        assert knows(f"unix:{tmp_path}/x.sock")
        with Connection(service.data, tls=client_tls) as connection:
            for path in ("/decrypt", "/decrypt", "/nowhere", "/decrypt"):
                assert connection.ask(path, GOOD).status == (404 if path == "/nowhere" else 200)
            connection.send(make_request("/decrypt", GOOD) * 100)
            assert {connection.receive().status for _ in range(100)} == {200}
        with Connection(service.data) as plain:
            plain.send(make_request("/decrypt", GOOD))
            assert b"HTTP" not in plain.socket.recv(100)
        assert ask(service.admin, "/readyz", method="GET").status == 200
        old = ssl.create_default_context()
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        authority_of(old, client_tls)
        assert knows(service.data, tls=old)


def authority_of(context: ssl.SSLContext, other: ssl.SSLContext) -> None:
    """Trust whom `other` trusts."""
    for certificate in other.get_ca_certs(binary_form=True):
        context.load_verify_locations(cadata=certificate)


def test_client_certificates_are_required_where_a_ca_is_given(
    operator: DevOperator,
    tls_files: dict[str, str],
    client_tls: ssl.SSLContext,
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    clients = trustme.CA()
    clients.cert_pem.write_to_path(tmp_path / "clients.pem")
    settings = tls_files | operator_settings(operator) | {"tls_client_ca": str(tmp_path / "clients.pem")}
    with service_in_thread(**settings) as service:
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            knows(service.data, tls=client_tls)
        authority.issue_cert("stranger").configure_cert(client_tls)
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            knows(service.data, tls=client_tls)
        clients.issue_cert("bidder").configure_cert(client_tls)
        assert knows(service.data, tls=client_tls)
        assert scrape(service.admin).total("bidstream_http_requests_total") == 1


# Bearer tokens.


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "bearer"
    path.write_text(" first-secret\n")
    return path


@pytest.fixture
def guarded(operator: DevOperator, token_file: Path, *, has_fast_path: bool) -> Iterator[RunningService]:
    settings = operator_settings(operator) | {"auth_token_file": str(token_file)}
    with service_in_thread(has_fast_path=has_fast_path, **settings) as running:
        yield running


def status(service: RunningService, authorization: str | None, path: str = "/decrypt") -> int:
    body = GOOD if path == "/decrypt" else {"requests": [GOOD]}
    return service.ask(path, body, headers={"Authorization": authorization}).status


@pytest.mark.parametrize("path", ["/decrypt", "/decrypt/batch"])
def test_only_who_shows_the_token_is_answered(guarded: RunningService, path: str) -> None:
    for good in ("Bearer first-secret", "bearer first-secret", "BEARER   first-secret  "):
        assert status(guarded, good, path) == 200
    for bad in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer first",
        "Bearer first-secret2",
        "Bearer FIRST-SECRET",
        "Bearer first-secret first-secret",
        "Basic first-secret",
        "first-secret",
        "Bearerfirst-secret",
        "Bearer gehïmniß",
        "Bearer \udcff",
    ):
        assert status(guarded, bad, path) == 401


def test_a_refusal_says_what_is_asked_for_and_keeps_the_connection(guarded: RunningService) -> None:
    with guarded.connect() as connection:
        for _ in range(3):
            answer = connection.ask("/decrypt", GOOD)
            assert (answer.status, answer.error) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        good = {"Authorization": "Bearer first-secret"}
        assert connection.ask("/decrypt", GOOD, headers=good).status == 200
        assert connection.ask("/decrypt", GOOD).status == 401
    assert scrape(guarded.admin).value("bidstream_http_requests_total", route="/decrypt", code="401") == 4


def test_who_has_no_token_learns_nothing_from_the_body(guarded: RunningService) -> None:
    for body in (b"{", b"x" * 20_000, b""):
        assert guarded.ask("/decrypt", body).status == 401
    with guarded.connect() as connection:
        connection.send(make_request("/decrypt", headers={"Content-Length": "99", "Expect": "100-continue"}))
        assert connection.receive().status == 401


def test_the_token_is_rotated_by_its_file(guarded: RunningService, token_file: Path) -> None:
    with guarded.connect() as kept:
        first, second = ({"Authorization": f"Bearer {name}-secret"} for name in ("first", "second"))
        assert kept.ask("/decrypt", GOOD, headers=first).status == 200
        token_file.write_text("second-secret")
        guarded.reload()
        wait_until(lambda: kept.ask("/decrypt", GOOD, headers=second).status == 200, "the new token")
        # The loop forgets the heads with the old token in its next turn.
        wait_until(lambda: kept.ask("/decrypt", GOOD, headers=first).status == 401, "the end of the old token")
        assert status(guarded, first["Authorization"]) == 401


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_bad_token_file_stops_the_start_but_not_the_service(token_file: Path, content: str | None) -> None:
    bearer = BearerToken(token_file)
    if content is None:
        token_file.unlink()
    else:
        token_file.write_text(content)
    with capture_logs() as log:
        bearer.reload()
    assert [line["event"] for line in log] == ["bearer token not reloaded"]
    assert bearer.matches("Bearer first-secret")
    with pytest.raises(ConfigurationError, match=r"BIDSTREAM_AUTH_TOKEN_FILE: .*(cannot read|is empty)"):
        BearerToken(token_file)


def test_health_and_metrics_need_no_token(guarded: RunningService) -> None:
    assert guarded.get("/readyz").status == 200


# The connection cap.


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is cut off for being slow: what ends, ends by itself."""
    monkeypatch.setattr(refusal, "REFUSAL_TIMEOUT_S", 600)


@pytest.mark.usefixtures("patient")
def test_connections_above_the_cap_are_told_so_and_counted(operator: DevOperator, *, has_fast_path: bool) -> None:
    with service_in_thread(has_fast_path=has_fast_path, max_connections=2, **operator_settings(operator)) as service:
        first, second = service.connect(), service.connect()
        for connection in (first, second):
            assert connection.ask("/decrypt", GOOD).status == 200
        for _ in range(3):
            with service.connect() as third:
                third.send(make_request("/decrypt", GOOD))
                answer = third.receive()
                assert (answer.status, answer.json["error"]["code"]) == (503, "overloaded")
                third.send(make_request("/decrypt", GOOD))  # too late, but met with no reset
                assert third.is_closed_by_peer()
        assert second.ask("/nowhere", GOOD).status == 404
        assert first.ask("/decrypt", GOOD).status == 200
        page = scrape(service.admin)
        assert page.value("bidstream_connections") == 2
        assert page.value("bidstream_connections_refused_total", reason="max_connections") == 3
        assert page.value("bidstream_http_requests_total", route="other", code="503") == 3
        first.socket.close()
        wait_until(lambda: scrape(service.admin).value("bidstream_connections") == 1, "the first to be gone")
        assert knows(service.data)
        second.socket.close()


def test_who_is_refused_and_stays_is_cut_off(
    operator: DevOperator, monkeypatch: pytest.MonkeyPatch, *, has_fast_path: bool
) -> None:
    monkeypatch.setattr(refusal, "MAX_REFUSALS", 2)
    with service_in_thread(has_fast_path=has_fast_path, max_connections=1, **operator_settings(operator)) as service:
        with service.connect() as only, ExitStack() as stack:
            assert only.ask("/decrypt", GOOD).status == 200
            crowd = [stack.enter_context(service.connect()) for _ in range(5)]
            assert all(connection.is_closed_by_peer() for connection in crowd)
            assert only.ask("/decrypt", GOOD).status == 200
        wait_until(lambda: knows(service.data), "room for another")


@pytest.mark.usefixtures("patient")
def test_refused_in_tls(
    operator: DevOperator, tls_files: dict[str, str], client_tls: ssl.SSLContext, *, has_fast_path: bool
) -> None:
    settings = tls_files | operator_settings(operator) | {"max_connections": 1}
    with (
        service_in_thread(has_fast_path=has_fast_path, **settings) as service,
        Connection(service.data, tls=client_tls) as only,
        Connection(service.data, tls=client_tls) as other,
    ):
        assert only.ask("/decrypt", GOOD).status == 200
        assert other.ask("/decrypt", GOOD).status == 503
        assert other.is_closed_by_peer()
