"""The webhook for opt-outs on its listening sockets: start, drain, stop."""

import sys
from collections.abc import Sequence

from bidstream_svc.config import Settings
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import OPTOUT_CONNECTIONS, OPTOUT_CONNECTIONS_REFUSED
from bidstream_svc.optouts.group_commit import GroupCommit
from bidstream_svc.optouts.snapshot_file import SnapshotFiles
from bidstream_svc.optouts.webhook import Webhook
from bidstream_svc.server.auth import optout_bearer
from bidstream_svc.server.connections import ConnectionLimits
from bidstream_svc.server.data_server import BEARER_PERIOD_S
from bidstream_svc.server.descriptors import share_descriptors
from bidstream_svc.server.file_watch import Watched
from bidstream_svc.server.hosts import ANY_HOST
from bidstream_svc.server.optout_plane import JudgeSnapshot, OptOutPlane
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.page_server import PageServer
from bidstream_svc.server.sockets import Listener

# The sender uses few connections, and other hosts one each for a snapshot.
_MAX_CONNECTIONS = 256


class OptOutServer(PageServer):
    """Serves the webhook and snapshots.

    Args:
        settings: paths, limits, time-outs and bearer token.
        listeners: the listening sockets; they are closed on exit, but the files of Unix sockets are kept.
        commit: adds opt-outs to the store.
        metrics: counts connections and requests.
        snapshots: the snapshots.
        judge_snapshot: see OptOutPlane.

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
        snapshots: SnapshotFiles,
        judge_snapshot: JudgeSnapshot,
    ) -> None:
        bearer = optout_bearer(settings)
        connections = PageConnections(
            _limits(settings), metrics, gauge=OPTOUT_CONNECTIONS, refused=OPTOUT_CONNECTIONS_REFUSED
        )
        webhook = Webhook(
            settings.optout_path,
            settings.optout_id_parameter,
            settings.optout_time_parameter,
            settings.operators[0].scope or IdentityScope.UID2,
        )
        plane = OptOutPlane(
            webhook,
            commit,
            metrics,
            connections,
            bearer=bearer,
            # Whoever may send an opt-out without a token, such as any process of this host, may not have all raw uids.
            gives_snapshots=bearer is not None or settings.allow_unauthenticated,
            snapshots=snapshots,
            judge_snapshot=judge_snapshot,
        )
        super().__init__(
            settings,
            listeners,
            metrics,
            connections,
            plane,
            # Web pages do not have the token, and a refusal would block the feed.
            allowed_hosts=settings.allowed_hosts if bearer is None else ANY_HOST,
            watched=[] if bearer is None else [Watched("optout-bearer-watch", BEARER_PERIOD_S, bearer.reload)],
        )


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        sys.maxsize,
        settings.idle_timeout,
        settings.request_timeout,
        settings.max_buffered,
        max_in_process=min(_MAX_CONNECTIONS, share_descriptors().admin),
    )
