"""The admin plane: health, information and metrics, and no other path."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from bidstream_svc import __version__
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.faults import Fault
from tests.support.metrics_page import OPENMETRICS, scrape
from tests.support.operator import operator_in_thread
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until

PAGES = ["/livez", "/startupz", "/readyz", "/info", "/failures", "/metrics"]
DATA_PATHS = ["/decrypt", "/decrypt/batch"]


@pytest.fixture(scope="module")
def waiting() -> Iterator[RunningService]:
    """A service whose operator never answers."""
    state = OperatorState(seed=5)
    state.faults.inject(Fault.HANG_BEFORE_ANSWER, times=None)
    with operator_in_thread(state) as operator, service_in_thread(started=False, **operator_settings(operator)) as it:
        yield it


@pytest.fixture(scope="module")
def has_fast_path() -> bool:
    return True


def test_with_keys_all_is_well(service: RunningService) -> None:
    for path in ("/livez", "/startupz", "/readyz"):
        answer = service.get(path)
        assert answer.status == 200
        assert answer.json["status"] == "ok"
        assert answer.json["reason"]


def test_no_page_names_the_versions_of_libraries(service: RunningService) -> None:
    for path in (*PAGES, "/nowhere"):
        assert service.get(path).headers["server"] == "bidstream-svc"


def test_before_the_first_keys_it_is_alive_and_no_more(waiting: RunningService) -> None:
    assert waiting.get("/livez").status == 200
    for path in ("/startupz", "/readyz"):
        answer = waiting.get(path)
        assert answer.status == 503
        assert answer.json == {"status": "unavailable", "reason": "no keys yet: the first refresh is under way"}
    info = waiting.get("/info").json
    assert info["keys"] is info["last_refresh"] is info["next_refresh"] is info["last_refresh_error"] is None


def test_the_reason_says_what_is_wrong_with_the_operator() -> None:
    state = OperatorState(seed=5)
    state.faults.inject(Fault.UNAUTHORIZED, times=None)
    with (
        operator_in_thread(state) as operator,
        service_in_thread(started=False, **operator_settings(operator)) as service,
    ):
        wait_until(lambda: service.get("/info").json["last_refresh_error"], "the first refresh")
        assert "401" in service.get("/readyz").json["reason"]
        assert "401" in service.get("/info").json["last_refresh_error"]
        state.faults.clear()
        wait_until(lambda: service.get("/readyz").status == 200, "keys")
        assert service.get("/info").json["last_refresh_error"] is None


def test_info_tells_what_an_operator_of_the_service_asks(service: RunningService, operator: DevOperator) -> None:
    info = service.get("/info").json
    assert info["version"] == __version__
    assert info["uptime_s"] >= 0
    assert info["draining"] is False
    keys = operator.state.keys.listed(operator.state.now_s())
    last_expiry = datetime.fromtimestamp(max(key.expires_s for key in keys), UTC)
    assert info["keys"] == {
        "keys": len(keys),
        "sites": 2,
        "scope": "UID2",
        "last_expiry": last_expiry.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "from_cache": False,
        "skipped_keys": 0,
        "skipped_sites": 0,
        "skipped_reasons": [],
    }
    assert info["tls_certificate"] is None
    last, following = (datetime.fromisoformat(info[name]) for name in ("last_refresh", "next_refresh"))
    assert timedelta(minutes=54) <= following - last <= timedelta(minutes=66, seconds=1)


def test_the_data_plane_is_not_on_the_admin_plane(service: RunningService, state: OperatorState) -> None:
    for path in DATA_PATHS:
        for method in ("POST", "GET"):
            answer = ask(service.admin, path, {"token": state.mint_token()}, method=method)
            assert (answer.status, answer.error) == (404, "not_found")


def test_the_admin_plane_is_not_on_the_data_plane(service: RunningService) -> None:
    for path in PAGES:
        for method in ("POST", "GET"):
            assert ask(service.data, path, method=method).status == 404


@pytest.mark.parametrize("path", PAGES)
def test_only_reading_is_allowed(service: RunningService, path: str) -> None:
    answer = ask(service.admin, path, {}, method="POST")
    assert (answer.status, answer.error) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET,HEAD"
    assert service.get(path).status == 200


def test_a_host_header_that_names_another_host_is_refused(service: RunningService) -> None:
    for host, status in [("localhost", 200), ("[::1]:9464", 200), ("rebound.example", 400)]:
        with Connection(service.admin) as connection:
            connection.send(f"GET /info HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = connection.receive()
            assert answer.status == status
            if status == 400:
                assert answer.error == "invalid_request"
                assert connection.is_closed_by_peer()


@pytest.mark.parametrize(
    "request_head",
    [
        b"\x00garbage",
        b"GET /livez HTTP/1.1",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_malformed_head_is_refused(service: RunningService, request_head: bytes) -> None:
    with Connection(service.admin) as connection:
        connection.send(request_head + b"\r\n\r\n")
        assert connection.receive().status == 400
        assert connection.is_closed_by_peer()
    assert service.get("/livez").status == 200


def test_a_content_length_may_have_thousands_of_zeros(service: RunningService) -> None:
    request = make_request("/livez", method="GET", headers={"Content-Length": "0" * 5_000 + "3"})
    with Connection(service.admin) as connection:
        for _ in range(2):
            connection.send(request + b"abc")
            assert connection.receive().status == 200


def test_a_malformed_chunk_behind_an_answer_ends_the_connection(service: RunningService) -> None:
    request = make_request("/livez", method="GET", headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
    with Connection(service.admin) as connection:
        connection.send(request)
        assert connection.receive().status == 200
        connection.send(b"3\r\nabc\r\nx\r\n" + request)
        assert connection.is_closed_by_peer()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/html", "text/plain; version=0.0.4"),
        ("text/plain; version=0.0.4", "text/plain; version=0.0.4"),
        ("text/plain; version=1.0.0; escaping=underscores", "text/plain; version=1.0.0"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0"),
        (f"{OPENMETRICS};q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "application/openmetrics-text; version=1."),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text; version=", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text; version=x", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.x.0", "text/plain; version=0.0.4"),
        ("text/plain; version=ü", "text/plain; version=0.0.4"),
        (";;;,;=,", "text/plain; version=0.0.4"),
        ("", "text/plain; version=0.0.4"),
    ],
)
def test_metrics_come_in_the_format_that_is_asked_for(service: RunningService, accept: str | None, kind: str) -> None:
    answer = service.get("/metrics", headers={"Accept": accept})
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.body.endswith(b"# EOF\n") is kind.startswith("application")


def test_an_empty_admin_address_turns_it_off(operator: DevOperator) -> None:
    with service_in_thread(admin_listen="", **operator_settings(operator)) as service:
        assert service.admin == ""
        assert service.decrypt("abcd")["status"] == "VERSION_NOT_SUPPORTED"


def test_pages_are_plain_json(service: RunningService) -> None:
    for path in PAGES[:-1]:
        answer = service.get(path)
        assert answer.headers["content-type"] == "application/json"
        assert isinstance(json.loads(answer.body), dict)


def test_scraping_is_no_traffic(service: RunningService) -> None:
    before = scrape(service.admin)
    after = scrape(service.admin, openmetrics=True)
    for name in ("bidstream_http_requests_total", "bidstream_connections"):
        assert before.total(name) == after.total(name)
