"""Spans for an OpenTelemetry collector: requests whose trace the bidder samples, and every key refresh.

OpenTelemetry is an optional dependency (the extra `otel`), imported only if tracing is on. A span is made when its work
is done. So no span is passed along meanwhile, and none is made for a request that is not sampled.
"""

import re
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

from bidstream_svc._version import __version__
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.metrics import RefreshResult

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes

TRACEPARENT = "traceparent"

_TRACES_PATH = "/v1/traces"
# How long `close` waits for the collector; less than a supervisor waits for its workers.
_FLUSH_S = 0.5
# https://www.w3.org/TR/trace-context/: version, trace id, parent id, flags. The lowest flag is "sampled".
_SAMPLED = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf](?:-[!-~]*)?")


def is_sampled(traceparent: bytes) -> bool:
    """Whether the value of a `traceparent` header is valid and its trace is sampled."""
    return _SAMPLED.fullmatch(traceparent) is not None


def require_opentelemetry() -> None:
    """Import the packages that tracing requires.

    Raises:
        ConfigurationError: they are not installed.
    """
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401 - only checks that they exist
    except ImportError:
        raise ConfigurationError(
            "BIDSTREAM_OTLP_ENDPOINT: OpenTelemetry is not installed; install bidstream-svc[otel]"
        ) from None


class Tracer:
    """Makes spans and sends them from a background thread. A forked process must make its own.

    OpenTelemetry's variables configure the rest, e.g. OTEL_SERVICE_NAME and OTEL_EXPORTER_OTLP_HEADERS.

    Args:
        endpoint: base URL of an OTLP/HTTP collector.

    Raises:
        ConfigurationError: the packages are not installed.
    """

    def __init__(self, endpoint: str) -> None:
        require_opentelemetry()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        own = Resource.create({"service.name": "bidstream-svc", "service.version": __version__})
        self._provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + _TRACES_PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("bidstream_svc", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def parent_of(self, headers: Mapping[str, str]) -> "Context | None":
        """Return the bidder's span that a request belongs to, or None if its trace is not sampled."""
        value = headers.get(TRACEPARENT, "")
        if not is_sampled(value.encode("utf-8", "surrogateescape")):
            return None
        # `extract` returns an empty context for a value that `_SAMPLED` matches but OpenTelemetry rejects, such as a
        # trace id of zeros.
        return self._propagator.extract(headers) or None

    def record_request(
        self, parent: "Context", route: str, duration_ns: int, http_status: int | None, statuses: Sequence[str]
    ) -> None:
        """Record the span of a request that ends now.

        Args:
            parent: result of `parent_of`.
            route: path of the POST request.
            duration_ns: time since its head was read.
            http_status: HTTP status of the response; None if there was none.
            statuses: statuses of the tokens in the response.
        """
        attributes: dict[str, str | int] = {"http.request.method": "POST", "http.route": route}
        if http_status is not None:
            attributes["http.response.status_code"] = http_status
        if statuses:
            attributes["bidstream.token_count"] = len(statuses)
            attributes["bidstream.success_count"] = statuses.count("SUCCESS")
        if len(set(statuses)) == 1:
            attributes["bidstream.status"] = statuses[0]
        is_error = http_status is None or http_status >= HTTPStatus.INTERNAL_SERVER_ERROR
        self._record(f"POST {route}", duration_ns, attributes, parent=parent, is_error=is_error)

    def record_refresh(self, duration_ns: int, result: RefreshResult) -> None:
        """Record the span of a key refresh that ends now."""
        attributes = {"bidstream.refresh.result": result.value}
        self._record("key refresh", duration_ns, attributes, is_error=result is not RefreshResult.SUCCESS)

    def close(self) -> None:
        """Send the remaining spans; gives up after `_FLUSH_S`."""
        flush = threading.Thread(target=self._provider.shutdown, name="flush-spans", daemon=True)
        flush.start()
        flush.join(_FLUSH_S)

    def _record(
        self, name: str, duration_ns: int, attributes: "Attributes", *, parent: "Context | None" = None, is_error: bool
    ) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        kind = SpanKind.INTERNAL if parent is None else SpanKind.SERVER
        end_ns = time.time_ns()
        span = self._tracer.start_span(name, parent, kind, attributes, start_time=end_ns - duration_ns)
        if is_error:
            span.set_status(StatusCode.ERROR)
        span.end(end_ns)
