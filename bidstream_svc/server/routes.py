"""The data plane's routes, one row each: all that differs between them is here.

The fast path, the aiohttp application, metrics and tracing are given this table, and the tests of openapi.yaml and of
the README read it. So a new route is a new row and its handler.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bidstream_svc.server.answers import statuses_in_answer, statuses_in_batch
from bidstream_svc.server.handlers import Handler, answer_batch, answer_decrypt

# The metric label of every path that is not a route's.
OTHER_LABEL = "other"


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A path that is answered, always to POST.

    Attributes:
        path: the request's target, which is also the `route` label of metrics and spans.
        max_body_bytes: a longer body is answered with 413.
        handle: makes the answer of a body; see `handlers`.
        statuses_in: the statuses of the tokens in the body of an answer with HTTP status 200, in order.
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
    """The values of the `route` label for these routes."""
    return [*(route.path for route in routes), OTHER_LABEL]
