"""Spans to an OpenTelemetry collector: requests that the bidder samples, and every key refresh.

Off, nothing of OpenTelemetry is imported and no request is looked at twice. The packages come with the extra `otel`.
A span is made once its work is done: nothing is carried along, and what is not sampled costs nothing.
"""

import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bidstream_svc._version import __version__
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.metrics import RefreshResult

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes

TRACEPARENT = "traceparent"

_TRACES_PATH = "/v1/traces"
# At the end, spans may wait so long for the collector; less than a supervisor waits for its workers.
_FLUSH_S = 2.0
_SERVER_ERROR = 500
# https://www.w3.org/TR/trace-context/: version, trace id, parent id, flags, the lowest bit of which says "sampled".
_SAMPLED = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf](?:-[!-~]*)?")


def is_sampled(traceparent: bytes) -> bool:
    """Whether the value of a `traceparent` header says that its trace is recorded."""
    return _SAMPLED.fullmatch(traceparent) is not None


def require_opentelemetry() -> None:
    """Import what tracing needs.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401 - whether they are there is the question
    except ImportError:
        raise ConfigurationError(
            "BIDSTREAM_OTLP_ENDPOINT: tracing needs packages that are not installed; install bidstream-svc[otel]"
        ) from None


class Tracer:
    """Makes spans, and sends them from a thread of its own; in a forked process, to be made after the fork.

    Apart from the endpoint, the SDK's own variables hold, e.g. OTEL_SERVICE_NAME and OTEL_EXPORTER_OTLP_HEADERS.

    Args:
        endpoint: base URL of a collector that takes OTLP over HTTP.

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
        """The span of the bidder that a request belongs to; None if its trace is not recorded."""
        value = headers.get(TRACEPARENT, "")
        if not is_sampled(value.encode("utf-8", "surrogateescape")):
            return None
        # Empty if the value is sampled by its looks only, such as one with a trace id of zeros.
        return self._propagator.extract(headers) or None

    def record_request(
        self, parent: "Context", route: str, duration_ns: int, http_status: int | None, statuses: Sequence[str]
    ) -> None:
        """Make the span of a request that ends now.

        Args:
            parent: what `parent_of` gave.
            route: where it went, by POST.
            duration_ns: since its head was read.
            http_status: of its answer; None if it got none.
            statuses: of the tokens in its answer.
        """
        attributes: dict[str, str | int] = {"http.request.method": "POST", "http.route": route}
        if http_status is not None:
            attributes["http.response.status_code"] = http_status
        if statuses:
            attributes["bidstream.token_count"] = len(statuses)
            attributes["bidstream.success_count"] = statuses.count("SUCCESS")
        if len(set(statuses)) == 1:
            attributes["bidstream.status"] = statuses[0]
        is_error = http_status is None or http_status >= _SERVER_ERROR
        self._record(f"POST {route}", duration_ns, attributes, parent=parent, is_error=is_error)

    def record_refresh(self, duration_ns: int, result: RefreshResult) -> None:
        """Make the span of a key refresh that ends now."""
        attributes = {"bidstream.refresh.result": result.value}
        self._record("key refresh", duration_ns, attributes, is_error=result is not RefreshResult.SUCCESS)

    def close(self) -> None:
        """Send what is left, unless the collector takes too long."""
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
