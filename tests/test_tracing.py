"""Spans of a real process as a collector receives them over OTLP/HTTP; and no tracing when it is off."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bidstream_svc.addresses import TcpAddress
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.faults import Fault
from bidstream_svc.server.fastpath.heads import PlainHeads
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.routes import ROUTES
from bidstream_svc.tracing import is_sampled
from tests.support.collector import Collector, attributes, running_collector
from tests.support.operator import operator_in_thread
from tests.support.raw_http import Connection, make_request
from tests.support.sidecar import DEADLINE_S, Sidecar, environment, operator_settings, wait_until

DOMAIN = "example.com"
PARENT = "b7ad6b7169203331"


class Traced(NamedTuple):
    """A sidecar that traces, its operator and its collector."""

    sidecar: Sidecar
    operator: DevOperator
    collector: Collector


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=12)) as running:
        yield running


@pytest.fixture(scope="module")
def traced(operator: DevOperator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with running_collector() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=tests")
        settings = operator_settings(operator) | {"otlp_endpoint": collector.url, "drain_timeout": 0.1}
        with Sidecar(tmp_path_factory.mktemp("traced"), **settings) as sidecar:
            yield Traced(sidecar.wait_ready(), operator, collector)
            assert sidecar.stop() == 0
            assert [line for line in sidecar.log if line["level"] == "error"] == []


def traceparent(trace_id: str, flags: str = "01") -> dict[str, str | None]:
    return {"traceparent": f"00-{trace_id}-{PARENT}-{flags}"}


def new_trace() -> str:
    return os.urandom(16).hex()


def test_a_sampled_request_becomes_a_span_below_the_bidders(traced: Traced) -> None:
    trace_id = new_trace()
    body = {"token": traced.operator.state.mint_token(), "domain": DOMAIN}
    with Connection(traced.sidecar.data) as connection:
        answer = connection.ask("/decrypt", body, headers=traceparent(trace_id) | {"tracestate": "bidder=1"})
    assert (answer.status, answer.json["status"]) == (200, "SUCCESS")
    span = traced.collector.wait(trace_id)
    assert (span.name, span.kind, span.parent_span_id.hex()) == ("POST /decrypt", Span.SPAN_KIND_SERVER, PARENT)
    assert span.trace_state == "bidder=1"
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert 0 < span.start_time_unix_nano < span.end_time_unix_nano
    assert attributes(span.attributes) == {
        "http.request.method": "POST",
        "http.route": "/decrypt",
        "http.response.status_code": 200,
        "bidstream.token_count": 1,
        "bidstream.success_count": 1,
        "bidstream.status": "SUCCESS",
    }


def test_the_service_is_named_and_the_sdks_own_variables_hold(traced: Traced) -> None:
    wait_until(lambda: traced.collector.requests, "spans")
    resource = attributes(traced.collector.requests[0].resource_spans[0].resource.attributes)
    assert resource["service.name"] == "bidstream-svc"
    assert resource["deployment.environment"] == "tests"


def test_a_batch_span_has_the_numbers_of_tokens_and_of_successes(traced: Traced) -> None:
    mixed, expired = new_trace(), new_trace()
    state = traced.operator.state
    old = {"token": state.mint_token(lifetime_s=-60)}
    with Connection(traced.sidecar.data) as connection:
        batch = {"requests": [{"token": state.mint_token()}, old, {"token": "abcd"}]}
        assert connection.ask("/decrypt/batch", batch, headers=traceparent(mixed)).status == 200
    with Connection(traced.sidecar.data) as connection:
        assert connection.ask("/decrypt/batch", {"requests": [old]}, headers=traceparent(expired)).status == 200
    told = attributes(traced.collector.wait(mixed).attributes)
    assert (told["http.route"], told["bidstream.token_count"], told["bidstream.success_count"]) == (
        "/decrypt/batch",
        3,
        1,
    )
    assert "bidstream.status" not in told
    assert attributes(traced.collector.wait(expired).attributes)["bidstream.status"] == "EXPIRED_TOKEN"


@pytest.mark.parametrize("path", ["/openrtb", "/openrtb/rewrite"])
def test_the_span_of_a_bid_request_has_the_numbers_of_its_tokens(traced: Traced, path: str) -> None:
    trace_id, state = new_trace(), traced.operator.state
    uids = [{"id": token} for token in (state.mint_token(), state.mint_token(lifetime_s=-60))]
    source = {"UID2": "uidapi.com", "EUID": "euid.eu"}[state.scope.name]
    with Connection(traced.sidecar.data) as connection:
        body = {"user": {"eids": [{"source": source, "uids": uids}]}}
        assert connection.ask(path, body, headers=traceparent(trace_id)).status == 200
        without_tokens = new_trace()
        assert connection.ask(path, {"id": "r1"}, headers=traceparent(without_tokens)).status == 200
    told = attributes(traced.collector.wait(trace_id).attributes)
    assert (told["http.route"], told["bidstream.token_count"], told["bidstream.success_count"]) == (path, 2, 1)
    assert "bidstream.token_count" not in attributes(traced.collector.wait(without_tokens).attributes)


def test_a_bad_request_has_only_its_http_status(traced: Traced) -> None:
    trace_id = new_trace()
    with Connection(traced.sidecar.data) as connection:
        assert connection.ask("/decrypt", {"token": 1}, headers=traceparent(trace_id)).status == 400
    told = attributes(traced.collector.wait(trace_id).attributes)
    assert told == {"http.request.method": "POST", "http.route": "/decrypt", "http.response.status_code": 400}


def test_a_request_that_gets_no_answer_is_an_error(traced: Traced) -> None:
    trace_id = new_trace()
    with Connection(traced.sidecar.data) as connection:
        connection.send(make_request("/decrypt", headers=traceparent(trace_id) | {"Content-Length": "9"}) + b"half")
    span = traced.collector.wait(trace_id)
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span.attributes) == {"http.request.method": "POST", "http.route": "/decrypt"}


def test_what_is_not_sampled_makes_no_span(traced: Traced) -> None:
    unsampled, elsewhere, last = new_trace(), new_trace(), new_trace()
    token = {"token": traced.operator.state.mint_token()}
    with Connection(traced.sidecar.data) as connection:
        for headers in ({}, traceparent(unsampled, "00"), {"traceparent": "rubbish"}, traceparent("0" * 32)):
            assert connection.ask("/decrypt", token, headers=headers).status == 200
        assert connection.ask("/nowhere", token, headers=traceparent(elsewhere)).status == 404
        assert connection.ask("/decrypt", headers=traceparent(elsewhere), method="GET").status == 405
        assert connection.ask("/decrypt", token, headers=traceparent(last)).status == 200
    traced.collector.wait(last)
    assert {span.trace_id.hex() for span in traced.collector.spans}.isdisjoint({unsampled, elsewhere, "0" * 32})


def test_a_sampled_request_keeps_its_connection(traced: Traced) -> None:
    token = {"token": traced.operator.state.mint_token()}
    sampled, plain = make_request("/decrypt", token, headers=traceparent(new_trace())), make_request("/decrypt", token)
    with Connection(traced.sidecar.data) as connection:
        connection.send(plain + sampled + plain)
        answers = [connection.receive() for _ in range(3)]
        assert [answer.closes for answer in answers] == [False] * 3
        for request in (sampled, plain, sampled):
            connection.send(request)
            answers.append(connection.receive())
            assert not answers[-1].closes
    assert len({answer.body for answer in answers}) == 1


def test_a_refresh_is_a_span_good_or_bad(traced: Traced) -> None:
    wait_until(traced.collector.refreshes, "the first refresh")
    first = traced.collector.refreshes()[0]
    assert attributes(first.attributes) == {"bidstream.refresh.result": "success"}
    assert (first.kind, first.parent_span_id) == (Span.SPAN_KIND_INTERNAL, b"")
    traced.operator.state.faults.inject(Fault.SERVER_ERROR)
    traced.sidecar.signal(signal.SIGHUP)
    wait_until(lambda: failed(traced.collector), "the failed refresh")
    assert attributes(failed(traced.collector)[0].attributes) == {"bidstream.refresh.result": "http"}


def failed(collector: Collector) -> list[Span]:
    return [span for span in collector.refreshes() if span.status.code == Status.STATUS_CODE_ERROR]


def test_no_token_no_id_no_domain_and_no_secret_in_a_span(traced: Traced) -> None:
    trace_id, state = new_trace(), traced.operator.state
    token = state.mint_token(client_side=True)
    with Connection(traced.sidecar.data) as connection:
        uid = connection.ask("/decrypt", {"token": token, "domain": DOMAIN}, headers=traceparent(trace_id)).json["uid"]
    traced.collector.wait(trace_id)
    sent = b"".join(traced.collector.bodies)
    assert b"SUCCESS" in sent
    for secret in (token, uid, DOMAIN, state.api_key, state.client_secret, traced.sidecar.data):
        assert secret.encode() not in sent


def test_every_worker_traces_and_sends_what_is_left_at_its_end(operator: DevOperator, tmp_path: Path) -> None:
    trace_id = new_trace()
    with running_collector() as collector:
        settings = operator_settings(operator) | {"otlp_endpoint": collector.url, "workers": 2, "drain_timeout": 0.1}
        with Sidecar(tmp_path, **settings) as sidecar:
            sidecar.wait_ready()
            with Connection(sidecar.data) as connection:
                assert connection.ask("/decrypt", {"token": "abcd"}, headers=traceparent(trace_id)).status == 200
            wait_until(lambda: sidecar.times_loaded(from_cache=False) == 2, "the first refresh of both workers")
            assert sidecar.stop() == 0
        assert len(collector.refreshes()) == 2
        assert len(collector.of_trace(trace_id)) == 1


def test_without_a_collector_it_serves_and_ends_all_the_same(operator: DevOperator, tmp_path: Path) -> None:
    with running_collector() as collector:
        url = collector.url
    with Sidecar(tmp_path, otlp_endpoint=url, drain_timeout=0.1, **operator_settings(operator)) as sidecar:
        sidecar.wait_ready()
        with Connection(sidecar.data) as connection:
            assert connection.ask("/decrypt", {"token": "abcd"}, headers=traceparent(new_trace())).status == 200
        assert sidecar.stop() == 0


def test_when_off_its_packages_are_not_imported(
    operator: DevOperator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with Sidecar(tmp_path, **operator_settings(operator)) as sidecar:
        sidecar.wait_ready()
        with Connection(sidecar.data) as connection:
            for _ in range(2):
                assert not connection.ask("/decrypt", {"token": "abcd"}, headers=traceparent(new_trace())).closes
    assert " bidstream_svc.tracing\n" in sidecar.stderr
    assert "opentelemetry" not in sidecar.stderr


@pytest.mark.parametrize("command", [["serve"], ["serve", "--dev"]], ids=" ".join)
def test_missing_packages_are_an_error(operator: DevOperator, command: list[str]) -> None:
    program = "import sys; sys.modules['opentelemetry.sdk'] = None; from bidstream_svc.cli import main; main()"
    settings = operator_settings(operator) | {"otlp_endpoint": "http://127.0.0.1:9", "listen": "127.0.0.1:0"}
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--admin-listen="],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "bidstream-svc: BIDSTREAM_OTLP_ENDPOINT: OpenTelemetry is not installed; install bidstream-svc[otel]\n"
    )


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"01-{TRACE}-{PARENT}-01-more", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-02", False),
        (f"00-{TRACE}-{PARENT}-1", False),
        (f"00-{TRACE}-{PARENT}", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        ("", False),
    ],
)
def test_sampled_or_not(value: str, expected: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert is_sampled(value.encode()) is expected


@pytest.mark.parametrize("line", ["traceparent: {}", "TraceParent: {}", "traceparent:{}", "traceparent:  {} "])
@pytest.mark.parametrize("is_traced", [False, True])
@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_fast_path_leaves_a_head_only_if_it_is_sampled_and_traced(
    line: str,
    is_traced: bool,  # noqa: FBT001 - a parameter of the test
    flags: str,
) -> None:
    memo = PlainHeads(ROUTES, None, HostCheck(TcpAddress("127.0.0.1", 80), frozenset()), is_traced=is_traced)
    lines = ["POST /decrypt HTTP/1.1", "Host: localhost", "Content-Length: 2"]
    assert memo.find("\r\n".join([*lines, "", ""]).encode()) is not None
    for trace_id in (TRACE, TRACE[::-1]):
        sampled = line.format(f"00-{trace_id}-{PARENT}-{flags}")
        head = memo.find("\r\n".join([*lines, sampled, "", ""]).encode())
        assert (head is None) is (is_traced and flags == "01")
