"""The limits of the admin plane's connections, on sockets."""

from contextlib import ExitStack

import pytest

from bidstream_svc.devoperator import DevOperator
from bidstream_svc.metrics.cells import ADMIN_CONNECTIONS
from bidstream_svc.server.descriptors import MAX_ADMIN_CONNECTIONS
from tests.support.metrics_page import scrape
from tests.support.raw_http import Connection, make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until


def admin_connections(service: RunningService) -> int:
    return service.service._metrics.row[ADMIN_CONNECTIONS]


def test_an_idle_connection_of_the_admin_plane_is_closed(operator: DevOperator) -> None:
    with (
        service_in_thread(idle_timeout=0.1, **operator_settings(operator)) as service,
        Connection(service.admin) as new,
        Connection(service.admin) as used,
    ):
        assert used.ask("/livez", method="GET").status == 200
        for client in (new, used):
            assert client.is_closed_by_peer()
        wait_until(lambda: admin_connections(service) == 0, "the end of both")


@pytest.mark.parametrize("beginning", [b"GET /li", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_head_that_does_not_end_is_closed_by_the_admin_plane(operator: DevOperator, beginning: bytes) -> None:
    with (
        service_in_thread(request_timeout=0.1, **operator_settings(operator)) as service,
        Connection(service.admin) as client,
    ):
        client.send(beginning)
        assert client.receive().status == 408
        assert client.is_closed_by_peer()


def test_a_body_that_does_not_end_is_closed_by_the_admin_plane(operator: DevOperator) -> None:
    with (
        service_in_thread(request_timeout=0.1, **operator_settings(operator)) as service,
        Connection(service.admin) as client,
    ):
        client.send(make_request("/livez", method="GET", headers={"Content-Length": "9"}) + b"half")
        assert client.receive().status == 200
        assert client.is_closed_by_peer()


def test_a_client_of_the_admin_plane_that_does_not_read_is_aborted(operator: DevOperator) -> None:
    with (
        service_in_thread(idle_timeout=0.1, **operator_settings(operator)) as service,
        Connection(service.admin) as client,
    ):
        with pytest.raises(ConnectionError):
            send_for_ever(client)
        wait_until(lambda: admin_connections(service) == 0, "the connection to be aborted")


def send_for_ever(client: Connection) -> None:
    while True:
        client.send(make_request("/openapi.yaml", method="GET"))


def test_a_new_connection_takes_the_place_of_the_one_unused_for_longest(operator: DevOperator) -> None:
    with service_in_thread(**operator_settings(operator)) as service:
        with ExitStack() as stack:
            clients = [stack.enter_context(Connection(service.admin)) for _ in range(MAX_ADMIN_CONNECTIONS)]
            wait_until(lambda: admin_connections(service) == MAX_ADMIN_CONNECTIONS, "the connections")
            assert clients[0].ask("/livez", method="GET").status == 200
            with Connection(service.admin) as new:
                assert new.ask("/livez", method="GET").status == 200
                assert clients[1].is_closed_by_peer()
            assert clients[0].ask("/livez", method="GET").status == 200
            # It has nothing to do with the data plane.
            assert service.decrypt("abcd")["status"] == "VERSION_NOT_SUPPORTED"
        wait_until(lambda: admin_connections(service) == 0, "the end of all")
        page = scrape(service.admin)
        assert page.value("bidstream_connections_refused_total", reason="max_connections") == 1
        assert page.value("bidstream_connections") == 0
