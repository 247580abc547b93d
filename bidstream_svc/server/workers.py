"""One process or several: a parent that only supervises, and workers that share its listening sockets.

Each worker has TCP sockets of its own on the same ports, between which the kernel spreads connections. The parent
keeps all of them open, so that what arrives for a worker that has just died waits for its successor. The numbers
they count live in memory that all share, so no counter goes down when a worker dies.
"""

import gc
import signal
import time

from bidstream_svc.config import Settings
from bidstream_svc.core.domains import load_public_suffixes
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import WORKER_RESTARTS
from bidstream_svc.server.data_server import FAREWELL_S
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.service import run, serve
from bidstream_svc.server.sockets import Listeners, open_listeners_each
from bidstream_svc.server.supervisor import Supervisor

# What a worker needs beyond its own drain time-out to end.
_LAST_GRACE_S = 5.0
# How long a worker that takes the place of a dead one lets clients wait for its first keys: the others have theirs.
_SUCCESSOR_KEY_PATIENCE_S = 3.0


def serve_all(settings: Settings) -> None:
    """Serve with as many processes as the settings ask, until a signal.

    Raises:
        ListenError, ConfigurationError: it cannot start.
        WorkersError: workers died again and again.
    """
    listeners = open_listeners_each(settings, settings.workers)
    metrics = MetricCells(labels_of(ROUTES), settings.workers)

    def work(worker: int) -> None:
        metrics.take_row(worker)
        _close_those_of_others(listeners, worker)
        patience_s = _SUCCESSOR_KEY_PATIENCE_S if metrics.row[WORKER_RESTARTS] else 0.0
        run(serve(settings, listeners[worker], metrics, stop_signals=[signal.SIGTERM], key_patience_s=patience_s))

    def count_restart(worker: int) -> None:
        metrics.rows[worker][WORKER_RESTARTS] += 1

    def close_listeners() -> None:
        for group in listeners:
            group.close()

    def take_leave() -> None:
        time.sleep(min(FAREWELL_S, settings.drain_timeout))
        close_listeners()

    try:
        if settings.workers == 1:
            run(serve(settings, listeners[0], metrics))
            return
        # Loaded once, before workers are forked, and kept out of the collector's way, it stays shared memory.
        load_public_suffixes()
        gc.freeze()
        supervisor = Supervisor(
            work,
            settings.workers,
            grace_s=settings.drain_timeout + _LAST_GRACE_S,
            on_restart=count_restart,
            on_stop=take_leave,
        )
        supervisor.run()
    finally:
        close_listeners()


def _close_those_of_others(listeners: list[Listeners], worker: int) -> None:
    """Close what a worker inherited of others: its copy would go on taking connections that nobody accepts."""
    own = {listener.socket for group in listeners[worker] for listener in group}
    for socket in {listener.socket for groups in listeners for group in groups for listener in group} - own:
        socket.close()
