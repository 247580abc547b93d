"""Metric cells and their collector, which sums over the rows of all workers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bidstream_svc import DecryptionStatus, FailureReason
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.metrics import MetricCells, RefreshResult, build_registry, cells
from bidstream_svc.metrics.cells import CacheWriteResult, HistogramCells, KeyCells, RefusalReason, ScopeLabel
from tests.support.metrics_page import Scrape

DURATION = "bidstream_request_duration_seconds"


def read(metrics: MetricCells) -> Scrape:
    return Scrape.of(parse_text(generate_latest(build_registry(metrics)).decode()))


def test_no_two_numbers_share_a_cell() -> None:
    taken: list[int] = []

    def take(cell: Any) -> None:
        if isinstance(cell, HistogramCells):
            taken.extend(range(cell.first, cell.first + HistogramCells.BUCKETS))
            taken.append(cell.sum)
        elif isinstance(cell, KeyCells):
            for member in vars(cell).values():
                take(member)
        elif isinstance(cell, dict):
            for member in cell.values():
                take(member)
        else:
            taken.append(cell)

    for name, cell in vars(cells).items():
        if (
            name.isupper()
            and not name.startswith("_")
            and name not in {"HTTP_CODES", "LABEL_OF_SCOPE", "SUCCESS_CELLS"}
        ):
            take(cell)
    assert len(taken) == len(set(taken))
    assert len(MetricCells().row) > max(taken)


@pytest.mark.parametrize("reason", FailureReason)
def test_every_failure_counts_once_as_status_and_once_as_reason(reason: FailureReason) -> None:
    metrics = MetricCells()
    metrics.count_failure(reason, IdentityScope.EUID)
    page = read(metrics)
    assert page.value("bidstream_decryptions_total", status=reason.status, scope="EUID") == 1
    assert page.total("bidstream_decryptions_total") == 1
    assert page.value("bidstream_decrypt_failures_total", reason=reason) == 1
    assert page.total("bidstream_decrypt_failures_total") == 1


def test_a_scrape_sums_over_the_rows_of_all_workers() -> None:
    metrics, keys = MetricCells(["/decrypt"], workers=3), cells.KEY_CELLS[ScopeLabel.EUID]
    for worker in range(3):
        metrics.take_row(worker)
        for _ in range(worker + 1):
            metrics.count_request("/decrypt", 200)
            metrics.add(keys.refreshes[RefreshResult.NETWORK])
            metrics.add(cells.CONNECTIONS_REFUSED[RefusalReason.MAX_CONNECTIONS])
            metrics.observe(cells.REQUEST_DURATION_NS, 1_000_000)
        metrics.add(cells.CONNECTIONS, 10)
        metrics.add(keys.cache_writes[CacheWriteResult.FAILURE])
        metrics.set(keys.is_in_use, 1)
        metrics.set(keys.keys, 5 - worker)
        metrics.set(keys.skipped, worker)
        metrics.set(keys.expiry_ms, 1_000 * (worker + 1))
        metrics.set(keys.from_cache, int(worker == 1))
        metrics.set(cells.EVENT_LOOP_LAG_NS, worker * 1_000_000_000)
    page = read(metrics)
    assert page.value("bidstream_http_requests_total", route="/decrypt", code="200") == 6
    assert page.value("bidstream_key_refreshes_total", scope="EUID", result="network") == 6
    assert page.value("bidstream_connections_refused_total", reason="max_connections") == 6
    assert page.value("bidstream_key_cache_writes_total", scope="EUID", result="failure") == 3
    assert page.value(f"{DURATION}_count") == 6
    assert page.value(f"{DURATION}_sum") == pytest.approx(0.006)
    assert page.value("bidstream_connections") == 30
    # The worker that is worst off speaks for all.
    assert page.value("bidstream_keys", scope="EUID") == 3
    assert page.value("bidstream_keys_skipped", scope="EUID") == 2
    assert page.value("bidstream_keys_expiry_timestamp_seconds", scope="EUID") == 1
    assert page.value("bidstream_keys_from_cache", scope="EUID") == 1
    assert page.value("bidstream_event_loop_lag_seconds") == 2


def test_a_restarted_worker_continues_the_counts_of_its_row() -> None:
    metrics = MetricCells(["/decrypt"], workers=2)
    metrics.take_row(1)
    metrics.count_failure(FailureReason.EXPIRED, None)
    metrics.add(cells.CONNECTIONS, 7)
    metrics.set(cells.KEY_CELLS[ScopeLabel.UNKNOWN].keys, 4)
    metrics.take_row(1)  # its successor: no connection of the dead is open any more
    metrics.count_failure(FailureReason.EXPIRED, None)
    page = read(metrics)
    assert page.total("bidstream_decryptions_total") == 2
    assert page.value("bidstream_connections") == 0
    assert page.value("bidstream_keys", scope="unknown") == 0


def test_a_receiver_of_optouts_has_no_keys_that_could_be_missing() -> None:
    text = generate_latest(build_registry(MetricCells())).decode()
    assert "bidstream_optouts 0.0" in text
    assert "\nbidstream_keys{" not in text


@given(durations_ns=st.lists(st.integers(0, 2**60), max_size=30))
def test_a_histogram_puts_each_duration_under_its_bound(durations_ns: list[int]) -> None:
    metrics = MetricCells()
    for duration_ns in durations_ns:
        metrics.observe(cells.REQUEST_DURATION_NS, duration_ns)
    page = read(metrics)
    assert page.value(f"{DURATION}_count") == len(durations_ns)
    assert page.value(f"{DURATION}_sum") == pytest.approx(sum(durations_ns) / 1e9)
    for labels in page.labels(f"{DURATION}_bucket"):
        bound = dict(labels)["le"]
        # Bounds are powers of two of ns, to which a duration of just that size does not belong.
        expected = sum(bound == "+Inf" or duration_ns < float(bound) * 1e9 for duration_ns in durations_ns)
        assert page.value(f"{DURATION}_bucket", le=bound) == expected


def test_numbers_do_not_run_over() -> None:
    metrics = MetricCells()
    metrics.add(cells.DECRYPTIONS[ScopeLabel.UNKNOWN, DecryptionStatus.EXPIRED_TOKEN], 2**62)
    metrics.count_failure(FailureReason.EXPIRED, None)
    assert read(metrics).value("bidstream_decryptions_total", scope="unknown", status="EXPIRED_TOKEN") == float(2**62)
