"""An OpenTelemetry collector: receives OTLP over HTTP in its own thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.sidecar import DEADLINE_S, wait_until


class Collector:
    """What a collector was sent.

    Attributes:
        url: where it listens.
        bodies: of each request, as they came.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_right = self.path == "/base/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                if is_right:
                    collector.bodies.append(body)
                self.send_response(200 if is_right else 404)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/base/"

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
    thread = Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.05}, name="collector")
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join(DEADLINE_S)
        collector.server.server_close()


def attributes(pairs: Any) -> dict[str, object]:
    def value(pair: KeyValue) -> object:
        return getattr(pair.value, str(pair.value.WhichOneof("value")))

    return {pair.key: value(pair) for pair in pairs}
