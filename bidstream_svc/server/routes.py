"""The route table of the data plane.

The fast path, the aiohttp application, metrics and tracing use this table; the tests of openapi.yaml and of the README
compare with it. A new route is one new row and a handler; tests then name the documents that have to describe it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bidstream_svc.server.answers import statuses_in_answer, statuses_in_batch
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
        statuses_in: returns the statuses in the body of an answer with HTTP status 200, one per token, in order.
    """

    path: str
    max_body_bytes: int
    handle: Handler
    statuses_in: Callable[[bytes], list[str]]


ROUTES = (
    Route("/decrypt", 16 * 1024, answer_decrypt, statuses_in_answer),
    Route("/decrypt/batch", 4 * 1024 * 1024, answer_batch, statuses_in_batch),
)


def labels_of(routes: Iterable[Route]) -> list[str]:
    """Return the values of the `route` label for these routes."""
    return [*(route.path for route in routes), OTHER_LABEL]
