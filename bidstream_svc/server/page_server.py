"""A plane of pages on its listening sockets."""

from collections.abc import Sequence
from typing import Protocol

from bidstream_svc.config import Settings
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.file_watch import Watched
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.page_connection import PageConnection
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.plane_server import Intake, Plane, PlaneServer
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.sockets import Listener
from bidstream_svc.server.tls import ServerTls

_MAX_REFUSALS = 8
# Those that are closed to make room for them keep their descriptors until the next iterations.
_MAX_ACCEPTED_PER_ITERATION = 4


class PagePlane(Plane, Protocol):
    """What answers the requests for pages."""

    def connect(self, hosts: HostCheck) -> PageConnection:
        """Return a protocol for a new connection; `hosts` checks its `Host` headers."""


class PageServer(PlaneServer):
    """Serves a plane of pages; what it refuses is not counted as a request.

    Args:
        settings, listeners, metrics, watched, tls: as of PlaneServer.
        connections: the connections of the plane.
        plane: answers them.
        allowed_hosts: see HostCheck.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        metrics: MetricCells,
        connections: PageConnections,
        plane: PagePlane,
        *,
        allowed_hosts: frozenset[str],
        watched: Sequence[Watched] = (),
        tls: ServerTls | None = None,
    ) -> None:
        refusals = Refusals(lambda _answer: None, max_open=_MAX_REFUSALS)
        intake = Intake(connections, plane.connect, refusals, allowed_hosts, _MAX_ACCEPTED_PER_ITERATION)
        super().__init__(settings, listeners, metrics, plane, intake, watched=watched, tls=tls)
