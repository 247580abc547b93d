"""The admin plane beside the serving loop: neither waits for the other."""

import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from bidstream_svc.devoperator import DevOperator
from bidstream_svc.metrics.cells import (
    ADMIN_CONNECTIONS,
    ADMIN_CONNECTIONS_REFUSED,
    CONNECTIONS_REFUSED,
    RefusalReason,
)
from tests.support.metrics_page import OPENMETRICS, scrape
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until

PATHS = ["/livez", "/startupz", "/readyz", "/info", "/metrics", "/failures", "/openapi.yaml"]


@pytest.fixture(scope="module")
def has_fast_path() -> bool:
    return True


def test_no_page_needs_the_serving_loop(service: RunningService) -> None:
    with service.paused():
        for path in PATHS:
            assert service.get(path).status == 200, path
        assert service.get("/nowhere").status == 404


def test_livez_says_when_the_serving_loop_hangs(operator: DevOperator) -> None:
    with service_in_thread(hang_timeout=2, **operator_settings(operator)) as service:
        assert service.get("/livez").json == {"status": "ok", "reason": "the event loop turns"}
        with service.paused():
            wait_until(lambda: service.get("/livez").status == 503, "/livez to notice")
            answer = service.get("/livez").json
            assert answer["status"] == "unavailable"
            assert answer["reason"].startswith("the event loop has not turned for 2.")
            assert service.get("/readyz").status == 200
        wait_until(lambda: service.get("/livez").status == 200, "/livez to notice that it turns again")


def test_livez_is_right_from_the_start_and_while_it_waits_for_keys(operator: DevOperator) -> None:
    with service_in_thread(started=False, **operator_settings(operator)) as service:
        assert service.get("/livez").status == 200


def test_scrapes_at_the_same_time_share_a_rendering_and_are_complete(service: RunningService) -> None:
    before = scrape(service.admin).total("bidstream_http_requests_total")
    assert service.ask("/nowhere").status == 404
    with ThreadPoolExecutor(16) as threads:
        pages = list(threads.map(lambda number: scrape(service.admin, openmetrics=number % 4 == 0), range(64)))
    # A scrape never shows what was before it.
    assert {page.total("bidstream_http_requests_total") for page in pages} == {before + 1}
    assert {len(page.values) for page in pages} == {len(pages[0].values)}


def test_an_openmetrics_page_ends_once(service: RunningService) -> None:
    assert service.get("/metrics", headers={"Accept": OPENMETRICS}).body.count(b"# EOF\n") == 1
    assert service.get("/metrics").body.count(b"# EOF\n") == 0


def test_pipelined_requests_are_answered_in_order(service: RunningService) -> None:
    with Connection(service.admin) as connection:
        connection.send(b"".join(make_request(path, method="GET") for path in PATHS * 20))
        for path in PATHS * 20:
            answer = connection.receive()
            assert answer.status == 200
            assert (b"bidstream_decryptions_total" in answer.body) == (path == "/metrics")


def test_a_client_that_does_not_read_has_the_request_time_out(operator: DevOperator) -> None:
    settings = operator_settings(operator) | {"idle_timeout": 600, "request_timeout": 0.2}
    with service_in_thread(**settings) as service, Connection(service.admin) as client:
        with pytest.raises(ConnectionError):
            client.send(make_request("/openapi.yaml", method="GET") * 500_000)  # more than the kernel's buffers hold
        wait_until(lambda: service.service._metrics.row[ADMIN_CONNECTIONS] == 0, "the connection to be aborted")


@contextmanager
def soft_limit(descriptors: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_admin_plane_takes_an_eighth_of_the_descriptors(operator: DevOperator) -> None:
    with soft_limit(400), service_in_thread(**operator_settings(operator)) as service, ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(Connection(service.admin))
        row = service.service._metrics.row
        wait_until(lambda: row[ADMIN_CONNECTIONS_REFUSED[RefusalReason.MAX_CONNECTIONS]] >= 100, "the refusals")
        assert 30 <= row[ADMIN_CONNECTIONS] <= 50  # of the descriptors that are not in use yet
        # The cells of the data plane belong to the serving loop.
        assert not any(row[cell] for cell in CONNECTIONS_REFUSED.values())
        assert ask(service.data, "/decrypt", {"token": "abcd"}).status == 200
