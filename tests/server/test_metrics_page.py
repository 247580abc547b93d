"""`/metrics`: every metric with its labels from the first scrape on, and correct counts."""

import platform
import time
from collections.abc import Iterator
from functools import partial
from itertools import product

import pytest

from bidstream_svc import DecryptionStatus, FailureReason, __version__
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.faults import Fault
from bidstream_svc.server import routes
from tests.support.metrics_page import Scrape, scrape
from tests.support.operator import operator_in_thread
from tests.support.raw_http import Connection, make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until

KEY_PATH = "/v2/key/bidstream"
SCOPES = {"UID2", "EUID", "unknown"}
REFRESH_RESULTS = {"success", "network", "http", "unauthorized", "envelope", "invalid"}
LABELS: dict[str, dict[str, set[str]]] = {
    "bidstream_decryptions_total": {"scope": SCOPES, "status": {str(status) for status in DecryptionStatus}},
    "bidstream_decrypt_failures_total": {"reason": {str(reason) for reason in FailureReason}},
    "bidstream_key_refreshes_total": {"scope": SCOPES, "result": REFRESH_RESULTS},
    "bidstream_key_fallbacks_total": {"scope": SCOPES},
    "bidstream_key_cache_writes_total": {"scope": SCOPES, "result": {"success", "failure"}},
}
ROUTES = {route.path for route in routes.ROUTES} | {"other"}
CODES = {"200", "400", "401", "404", "405", "408", "413", "415", "417", "431", "500", "503"}
GAUGES = [
    "bidstream_connections",
    "bidstream_keys",
    "bidstream_keys_skipped",
    "bidstream_sites",
    "bidstream_keys_expiry_timestamp_seconds",
    "bidstream_key_refresh_last_success_timestamp_seconds",
    "bidstream_tls_certificate_expiry_timestamp_seconds",
]
HISTOGRAMS = ["bidstream_request_duration_seconds", "bidstream_key_refresh_duration_seconds"]


@pytest.fixture
def waiting() -> Iterator[RunningService]:
    """A service that has not heard from its operator: nothing has happened yet."""
    state = OperatorState(seed=5)
    state.faults.inject(Fault.HANG_BEFORE_ANSWER, times=None)
    with operator_in_thread(state) as operator, service_in_thread(started=False, **operator_settings(operator)) as it:
        yield it


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_all_is_there_at_zero_from_the_first_scrape(waiting: RunningService, *, openmetrics: bool) -> None:
    page = scrape(waiting.admin, openmetrics=openmetrics)
    for name, labels in LABELS.items():
        combined = product(*([(label, value) for value in values] for label, values in labels.items()))
        assert page.labels(name) == set(map(frozenset, combined))
        assert page.total(name) == 0
    assert page.labels("bidstream_http_requests_total") == {
        frozenset({("route", route), ("code", code)}) for route in ROUTES for code in CODES
    }
    assert page.total("bidstream_http_requests_total") == 0
    assert page.labels("bidstream_connections_refused_total") >= {frozenset({("reason", "max_connections")})}
    assert page.total("bidstream_connections_refused_total") == 0
    for name in GAUGES:
        assert page.total(name) == 0
        # Of the programme, nothing is known before there are keys.
        assert page.labels(name) == {frozenset({("scope", "unknown")} if "_key" in name or "_sites" in name else ())}
    for name in HISTOGRAMS:
        assert page.total(f"{name}_count") == page.total(f"{name}_sum") == page.total(f"{name}_bucket") == 0
        assert page.labels(f"{name}_count")
    assert page.value("bidstream_event_loop_lag_seconds") >= 0
    build = page.value("bidstream_build_info", version=__version__, python=platform.python_version())
    assert build == 1
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"):
        assert page.value(name) > 0
    assert page.value("process_open_fds") > 0


def test_every_family_is_typed_explained_and_bounded(waiting: RunningService) -> None:
    page = scrape(waiting.admin)
    for family in page.families.values():
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        assert family.documentation
    assert len(FailureReason) < 20
    labels = {label for _, labels in page.values for label, _ in labels}
    assert labels == {"status", "reason", "route", "code", "result", "le", "scope", "version", "python"}
    assert len(page.values) < 450


def differences(before: Scrape, after: Scrape, prefix: str = "") -> dict[str, float]:
    """What has grown, as the exposition format spells it; without the lag, which changes twice a second."""
    found = {}
    for (name, labels), value in after.values.items():
        if name == "bidstream_event_loop_lag_seconds":
            continue
        growth = value - before.values[name, labels]
        if growth and name.startswith(prefix) and not name.endswith(("_bucket", "_sum")):
            found[f"{name}{sorted(value for _, value in labels)}"] = growth
    return found


def test_counters_tell_what_was_sent(service: RunningService, state: OperatorState) -> None:
    before = scrape(service.admin)
    with service.connect() as connection:
        for _ in range(3):
            connection.ask("/decrypt", {"token": state.mint_token()})
        connection.ask("/decrypt", {"token": state.mint_token(lifetime_s=-1)})
        connection.ask("/decrypt", {"token": state.mint_token(client_side=True)})
        tokens = ["", "not base64", "abcd", state.mint_token(client_side=True), state.mint_token()]
        requests = [{"token": token, "domain": "example.net"} for token in tokens]
        connection.ask("/decrypt/batch", {"requests": requests})
        connection.ask("/decrypt", b"{")
        connection.ask("/decrypt/batch", {"requests": []})
        connection.ask("/decrypt", method="GET")
        connection.ask("/decrypt", b"{}", headers={"Content-Type": "text/plain"})
        connection.ask("/decrypt", b"{}", headers={"Expect": "x"})
        connection.ask("/some/path", b"{}")
    with service.connect() as connection:
        connection.send(make_request("/decrypt", headers={"Content-Length": "16385"}))
        connection.receive()
    with service.connect() as connection:
        connection.send(b"garbage\r\n\r\n")
        connection.receive()

    assert differences(before, scrape(service.admin), "bidstream_") == {
        "bidstream_decryptions_total['SUCCESS', 'UID2']": 4,
        "bidstream_decryptions_total['EXPIRED_TOKEN', 'UID2']": 1,
        "bidstream_decryptions_total['DOMAIN_NAME_CHECK_FAILED', 'UID2']": 2,
        "bidstream_decryptions_total['INVALID_PAYLOAD', 'unknown']": 2,
        "bidstream_decryptions_total['VERSION_NOT_SUPPORTED', 'unknown']": 1,
        "bidstream_decrypt_failures_total['expired']": 1,
        "bidstream_decrypt_failures_total['domain_missing']": 1,
        "bidstream_decrypt_failures_total['domain_not_listed']": 1,
        "bidstream_decrypt_failures_total['not_a_token']": 1,
        "bidstream_decrypt_failures_total['bad_encoding']": 1,
        "bidstream_decrypt_failures_total['version_unknown']": 1,
        "bidstream_request_duration_seconds_count[]": 8,
        "bidstream_http_requests_total['/decrypt', '200']": 5,
        "bidstream_http_requests_total['/decrypt/batch', '200']": 1,
        "bidstream_http_requests_total['/decrypt', '400']": 1,
        "bidstream_http_requests_total['/decrypt/batch', '400']": 1,
        "bidstream_http_requests_total['/decrypt', '405']": 1,
        "bidstream_http_requests_total['/decrypt', '413']": 1,
        "bidstream_http_requests_total['/decrypt', '415']": 1,
        "bidstream_http_requests_total['/decrypt', '417']": 1,
        "bidstream_http_requests_total['404', 'other']": 1,
        "bidstream_http_requests_total['400', 'other']": 1,
    }


def test_connections_are_counted_while_they_last(service: RunningService) -> None:
    def count() -> float:
        return scrape(service.admin).value("bidstream_connections")

    wait_until(lambda: count() == 0, "earlier connections to end")
    connections = [Connection(service.data) for _ in range(3)]
    for connection in connections:
        connection.ask("/decrypt", {"token": "abcd"})
    connections[0].ask("/nowhere")
    assert count() == 3
    for connection in connections:
        connection.socket.close()
    wait_until(lambda: count() == 0, "the connections to end")


def test_durations_are_sums_of_what_they_count(service: RunningService) -> None:
    started_s = time.perf_counter()
    before = scrape(service.admin)
    for _ in range(20):
        service.ask("/decrypt", {"token": "abcd"})
    after = scrape(service.admin)
    elapsed_s = time.perf_counter() - started_s
    name = "bidstream_request_duration_seconds"
    assert after.value(f"{name}_count") - before.value(f"{name}_count") == 20
    assert 0 < after.value(f"{name}_sum") - before.value(f"{name}_sum") < elapsed_s
    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (found, labels), value in after.values.items()
        if found == f"{name}_bucket"
    )
    counts = [value for _, value in buckets]
    assert counts == sorted(counts)
    assert buckets[-1] == (float("inf"), after.value(f"{name}_count"))


def test_refreshes_are_counted_by_what_became_of_them() -> None:
    state = OperatorState(seed=6)
    faults = {
        "network": Fault.RESET,
        "http": Fault.SERVER_ERROR,
        "unauthorized": Fault.UNAUTHORIZED,
        "envelope": Fault.WRONG_NONCE,
        "invalid": Fault.EMPTY_KEYS,
    }
    with operator_in_thread(state) as operator, service_in_thread(**operator_settings(operator)) as service:

        def count(result: str) -> float:
            return scrape(service.admin).total("bidstream_key_refreshes_total", result=result)

        def is_counted(result: str) -> bool:
            return count(result) == 1

        for result, fault in faults.items():
            state.faults.inject(fault)
            service.reload()
            wait_until(partial(is_counted, result), f"a refresh that fails: {result}")
        successes = count("success")
        service.reload()
        wait_until(lambda: count("success") > successes, "another good refresh")
        page = scrape(service.admin)
        total = page.total("bidstream_key_refreshes_total")
        assert total == page.total("bidstream_key_refresh_duration_seconds_count") == state.calls[KEY_PATH] >= 7
        assert page.total("bidstream_keys") == 4
        assert page.total("bidstream_sites") == 2
        last_expiry_s = max(key.expires_s for key in state.keys.listed(state.now_s()))
        assert page.total("bidstream_keys_expiry_timestamp_seconds") == last_expiry_s
        last_s = page.total("bidstream_key_refresh_last_success_timestamp_seconds")
        assert time.time() - 20 < last_s <= time.time()
