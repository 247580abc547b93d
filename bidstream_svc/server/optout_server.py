"""The webhook for opt-outs on its listening sockets: start, drain, stop."""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

from bidstream_svc.config import Settings
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import OPTOUT_CONNECTIONS, OPTOUT_CONNECTIONS_REFUSED
from bidstream_svc.optouts.group_commit import GroupCommit
from bidstream_svc.optouts.webhook import Webhook
from bidstream_svc.server.acceptor import Acceptor, open_acceptors
from bidstream_svc.server.auth import optout_bearer
from bidstream_svc.server.connections import ConnectionLimits
from bidstream_svc.server.data_server import BEARER_PERIOD_S, SHUTDOWN_DELAY_S
from bidstream_svc.server.descriptors import share_descriptors
from bidstream_svc.server.file_watch import FileWatch
from bidstream_svc.server.optout_plane import OpenSnapshot, OptOutPlane
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.sockets import Listener

_log = get_logger(__name__)

_MAX_REFUSALS = 8
# The sender uses few connections, and other hosts one each for a snapshot.
_MAX_CONNECTIONS = 256
_ANY_HOST = frozenset({"*"})


class OptOutServer:
    """Serves the webhook and snapshots; an asynchronous context manager.

    Args:
        settings: paths, limits, time-outs and bearer token.
        listeners: the listening sockets; they are closed on exit, but the files of Unix sockets are kept.
        commit: adds opt-outs to the store.
        metrics: counts connections and requests.
        open_snapshot: see OptOutPlane.

    Raises:
        ConfigurationError: the file of the bearer token cannot be read or is not valid.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        commit: GroupCommit,
        metrics: MetricCells,
        *,
        open_snapshot: OpenSnapshot,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._bearer = optout_bearer(settings)
        self._connections = PageConnections(
            _limits(settings), metrics, gauge=OPTOUT_CONNECTIONS, refused=OPTOUT_CONNECTIONS_REFUSED
        )
        webhook = Webhook(
            settings.optout_path,
            settings.optout_id_parameter,
            settings.optout_time_parameter,
            settings.operators[0].scope or IdentityScope.UID2,
        )
        self._plane = OptOutPlane(
            webhook,
            commit,
            metrics,
            self._connections,
            bearer=self._bearer,
            # Whoever may send an opt-out without a token, such as any process of this host, may not have all raw uids.
            gives_snapshots=self._bearer is not None or settings.allow_unauthenticated,
            open_snapshot=open_snapshot,
        )
        self._watch: FileWatch | None = None
        self._acceptors: list[Acceptor] = []
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start accepting connections."""
        async with AsyncExitStack() as stack:
            stack.callback(self._connections.close)
            refusals = Refusals(lambda _answer: None, max_open=_MAX_REFUSALS)
            stack.callback(refusals.close)
            if self._bearer is not None:
                self._watch = FileWatch("optout-bearer-watch", BEARER_PERIOD_S, self._bearer.reload, lambda: None)
                stack.callback(self._watch.stop)
            self._acceptors = open_acceptors(
                stack,
                self._listeners,
                self._connections,
                self._plane.connect,
                refusals,
                # Web pages do not have the token, and a refusal would block the feed.
                allowed_hosts=self._settings.allowed_hosts if self._bearer is None else _ANY_HOST,
            )
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Close all connections at once; call `drain` before to let requests finish."""
        await self._closing.aclose()

    def reload_files(self) -> None:
        """Look now whether the bearer token has changed."""
        if self._watch is not None:
            self._watch.look_now()

    async def drain(self) -> None:
        """Finish the requests in flight; see DataServer.drain."""
        timeout_s = self._settings.drain_timeout
        started_s = time.monotonic()
        await asyncio.sleep(min(SHUTDOWN_DELAY_S, timeout_s))
        for acceptor in self._acceptors:
            acceptor.stop()
        self._plane.is_draining = True
        self._connections.close_idle()
        try:
            async with asyncio.timeout(timeout_s - (time.monotonic() - started_s)):
                await self._connections.wait_empty()
        except TimeoutError:
            _log.warning("drain timed out", connections=len(self._connections))


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        sys.maxsize,
        settings.idle_timeout,
        settings.request_timeout,
        settings.max_buffered,
        max_in_process=min(_MAX_CONNECTIONS, share_descriptors().admin),
    )
