"""An OpenTelemetry collector: receives OTLP over HTTP in its own thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.http_server import Reply, http_server_in_thread
from tests.support.sidecar import wait_until


class Collector:
    """What a collector was sent.

    Attributes:
        url: where it listens.
        bodies: of each request, as they came.
    """

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []

    def answer(self, request: BaseHTTPRequestHandler) -> Reply:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        is_right = request.path == "/base/v1/traces" and request.headers["Content-Type"] == "application/x-protobuf"
        if is_right:
            self.bodies.append(body)
        return Reply(200 if is_right else 404, b"")

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    @property
    def spans(self) -> list[Span]:
        by_scope = [scope.spans for got in self.requests for part in got.resource_spans for scope in part.scope_spans]
        return [span for spans in by_scope for span in spans]

    def of_trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id.hex() == trace_id]

    def refreshes(self) -> list[Span]:
        return [span for span in self.spans if span.name == "key refresh"]

    def wait(self, trace_id: str) -> Span:
        wait_until(lambda: self.of_trace(trace_id), "the span")
        (span,) = self.of_trace(trace_id)
        return span


@contextmanager
def running_collector() -> Iterator[Collector]:
    collector = Collector()
    with http_server_in_thread(collector.answer) as port:
        collector.url = f"http://127.0.0.1:{port}/base/"
        yield collector


def attributes(pairs: Any) -> dict[str, object]:
    def value(pair: KeyValue) -> object:
        return getattr(pair.value, str(pair.value.WhichOneof("value")))

    return {pair.key: value(pair) for pair in pairs}
