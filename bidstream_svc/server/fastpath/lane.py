"""The native lane of the fast path: what a connection has received goes to it first.

The lane answers the usual request in one call. Python gets the rest, and teaches the lane the heads that it has
checked.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, LaneCells
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import BID_REQUESTS, REQUEST_DURATION_NS, SUCCESS_CELLS, BidRequestResult
from bidstream_svc.server.base_connection import Connection
from bidstream_svc.server.fastpath.connection import FastPathConnection, Shared
from bidstream_svc.server.fastpath.heads import PlainHeads
from bidstream_svc.server.fastpath.shapes import Shape
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.routes import Route

if IS_NATIVE or TYPE_CHECKING:
    from bidstream_svc.core.kernel import Lane, Receiver

# None if there is no native kernel.
NativeLane: TypeAlias = "Lane[Route] | None"


def make_lane(decryptor: TokenDecryptor, metrics: MetricCells) -> NativeLane:
    """Return a lane that knows no heads; None if there is no native kernel."""
    if not IS_NATIVE:
        return None
    cells = LaneCells(
        success_uid2=SUCCESS_CELLS[IdentityScope.UID2],
        success_euid=SUCCESS_CELLS[IdentityScope.EUID],
        bid_request_success=BID_REQUESTS[BidRequestResult.SUCCESS],
        bid_request_no_token=BID_REQUESTS[BidRequestResult.NO_TOKEN],
        first_bucket=REQUEST_DURATION_NS.first,
        last_bucket=REQUEST_DURATION_NS.first + REQUEST_DURATION_NS.BUCKETS - 1,
        sum_ns=REQUEST_DURATION_NS.sum,
    )
    return Lane(metrics.row, cells, decryptor.bind)


def teach(lane: "Lane[Route]", shapes: Sequence[Shape], metrics: MetricCells) -> None:
    """Let the lane recognise heads like the one that was found last; `shapes` are those of `PlainHeads`."""
    if shapes:
        shape, route = shapes[0], shapes[0].route
        requests = metrics.http_requests[route.path, 200]
        lane.learn(route, shape.parts, shape.end, route.max_body_bytes, route.content, requests)


class LaneConnection(FastPathConnection):
    """A connection with a lane.

    Args:
        shared, heads, make_fallback: as of `FastPathConnection`.
        lane: answers the usual requests; shared by the connections of a listener, as `heads` is.

    Attributes:
        data_received: called by the transport.
    """

    __slots__ = ("_heads", "_lane", "_receiver", "data_received")

    def __init__(
        self, shared: Shared, heads: PlainHeads, lane: "Lane[Route]", make_fallback: Callable[[], Connection]
    ) -> None:
        super().__init__(shared, heads, make_fallback)
        self._heads = heads
        self._lane = lane
        self._receiver = Receiver(lane, shared.decryptor.stores)
        self.data_received = self._receiver.receive  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to receive."""
        super().connection_made(transport)
        assert self.transport is not None
        self._receiver.open(self, self.transport.write)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release what refers to the connection."""
        self._receiver.close()
        super().connection_lost(exc)

    def pass_to(self, successor: Connection, unread: bytes) -> None:
        """Release what refers to the connection, and hand over."""
        self._receiver.close()
        super().pass_to(successor, unread)

    def note_head(self) -> None:
        """Let the lane recognise heads like the one that was found last."""
        teach(self._lane, self._heads.shapes, self._shared.metrics)
