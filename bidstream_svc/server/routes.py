"""The route table of the data plane.

The fast path, the aiohttp application, metrics and tracing use this table; the tests of openapi.yaml and of the README
compare with it. A new route is one new row and a handler; tests then name the documents that have to describe it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bidstream_svc.core.kernel import Content
from bidstream_svc.core.openrtb import MAX_BID_REQUEST_BYTES
from bidstream_svc.server.answers import statuses_in_answer, statuses_in_batch, statuses_in_bid_request
from bidstream_svc.server.bid_handlers import answer_bid_request, answer_rewrite
from bidstream_svc.server.handlers import Handler, answer_batch, answer_decrypt

# The `route` label of a request to any other path.
OTHER_LABEL = "other"


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One route; its method is always POST.

    Attributes:
        path: the request target; also the `route` label of metrics and spans.
        max_body_bytes: a longer body is answered with 413.
        handle: returns the answer to a body; see `handlers`.
        statuses_in: returns the statuses in the body of an answer with HTTP status 200, one per token, in order; not
            called for an answer that has them in its head.
        takes_gzip: whether a body may have a `Content-Encoding`. `max_body_bytes` is then also the limit after it is
            inflated.
        content: what the bodies are, for the native lane.
    """

    path: str
    max_body_bytes: int
    handle: Handler
    statuses_in: Callable[[bytes], list[str]]
    takes_gzip: bool = False
    content: Content = Content.OTHER


ROUTES = (
    Route("/decrypt", 16 * 1024, answer_decrypt, statuses_in_answer, content=Content.TOKEN),
    Route("/decrypt/batch", 4 * 1024 * 1024, answer_batch, statuses_in_batch),
    Route(
        "/openrtb",
        MAX_BID_REQUEST_BYTES,
        answer_bid_request,
        statuses_in_bid_request,
        takes_gzip=True,
        content=Content.BID_REQUEST,
    ),
    Route(
        "/openrtb/rewrite",
        MAX_BID_REQUEST_BYTES,
        answer_rewrite,
        lambda _body: [],
        takes_gzip=True,
        content=Content.BID_REQUEST_TO_REWRITE,
    ),
)


def labels_of(routes: Iterable[Route]) -> list[str]:
    """Return the values of the `route` label for these routes."""
    return [*(route.path for route in routes), OTHER_LABEL]
