"""The native lane of the fast path: makes it, and teaches it heads that Python has checked."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, LaneCells
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import REQUEST_DURATION_NS, SUCCESS_CELLS
from bidstream_svc.server.fastpath.shapes import Shape
from bidstream_svc.server.handlers import answer_decrypt_in_python
from bidstream_svc.server.routes import ROUTES, Route

if IS_NATIVE or TYPE_CHECKING:
    from bidstream_svc.core.kernel import Lane

# None if there is no native kernel.
NativeLane: TypeAlias = "Lane[Route] | None"

_DECRYPT = ROUTES[0]  # the route whose bodies the kernel answers
_REST_OF_DECRYPT = replace(_DECRYPT, handle=answer_decrypt_in_python)


def make_lane(metrics: MetricCells) -> NativeLane:
    """Return a lane that knows no heads; None if there is no native kernel."""
    if not IS_NATIVE:
        return None
    cells = LaneCells(
        success_uid2=SUCCESS_CELLS[IdentityScope.UID2],
        success_euid=SUCCESS_CELLS[IdentityScope.EUID],
        request=metrics.http_requests[_DECRYPT.path, 200],
        first_bucket=REQUEST_DURATION_NS.first,
        last_bucket=REQUEST_DURATION_NS.first + REQUEST_DURATION_NS.BUCKETS - 1,
        sum_ns=REQUEST_DURATION_NS.sum,
    )
    return Lane(metrics.row, cells)


def teach(lane: "Lane[Route]", shapes: Sequence[Shape]) -> None:
    """Let the lane recognise heads like the one that was found last; `shapes` are those of `PlainHeads`."""
    if shapes:
        shape = shapes[0]
        is_decrypt = shape.route is _DECRYPT
        route = _REST_OF_DECRYPT if is_decrypt else shape.route
        lane.learn(route, shape.parts, shape.end, route.max_body_bytes, is_decrypt)
