"""One process, or a parent that supervises several workers.

Each worker has its own TCP sockets on the same ports, and the kernel distributes connections between them. The parent
keeps all sockets open, so that connections to a worker that ended wait for its replacement. Counters live in shared
memory, so that they do not decrease when a worker ends.
"""

import gc
import signal

from bidstream_svc.config import Settings
from bidstream_svc.core.domains import load_public_suffixes
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import WORKER_RESTARTS
from bidstream_svc.server.data_server import SHUTDOWN_DELAY_S
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.service import run, serve
from bidstream_svc.server.sockets import Listeners, open_listeners_each
from bidstream_svc.server.supervisor import Supervisor

# How much longer than the drain time-out a worker may take to end. It ends itself a little earlier; see StopSignals.
_EXIT_GRACE_S = 0.95
# How long a restarted worker waits for its first keys before it accepts connections. Meanwhile clients wait, instead
# of getting KEYS_NOT_SYNCED while the other workers have keys.
_RESTARTED_KEY_WAIT_S = 3.0


def run_service(settings: Settings) -> None:
    """Serve with the number of processes in the settings, until a stop signal.

    Raises:
        ListenError: an address cannot be used.
        ConfigurationError: a setting is missing or invalid, or a file that it names cannot be used.
        WorkersError: a worker ended several times in a row right after its start.
    """
    listeners = open_listeners_each(settings, settings.workers)
    metrics = MetricCells(labels_of(ROUTES), settings.workers)

    def work(worker: int) -> None:
        metrics.take_row(worker)
        _close_listeners_of_other_workers(listeners, worker)
        key_wait_s = _RESTARTED_KEY_WAIT_S if metrics.row[WORKER_RESTARTS] else 0.0
        run(serve(settings, listeners[worker], metrics, stop_signals=[signal.SIGTERM], key_wait_s=key_wait_s))

    def count_restart(worker: int) -> None:
        metrics.rows[worker][WORKER_RESTARTS] += 1

    def close_listeners() -> None:
        for group in listeners:
            group.close()

    try:
        if settings.workers == 1:
            run(serve(settings, listeners[0], metrics))
            return
        # Loaded before the fork, its memory is shared. A collection in a worker would write to it and so copy it.
        load_public_suffixes()
        gc.freeze()
        supervisor = Supervisor(
            work,
            settings.workers,
            grace_s=settings.drain_timeout + _EXIT_GRACE_S,
            on_restart=count_restart,
            stop_delay_s=min(SHUTDOWN_DELAY_S, settings.drain_timeout),
            on_stop=close_listeners,
        )
        supervisor.run()
    finally:
        close_listeners()


def _close_listeners_of_other_workers(listeners: list[Listeners], worker: int) -> None:
    """Close the sockets of other workers, which a worker inherits.

    While a copy is open, the kernel still queues connections on a socket that its own worker has closed.
    """
    own = {listener.socket for group in listeners[worker] for listener in group}
    for socket in {listener.socket for groups in listeners for group in groups for listener in group} - own:
        socket.close()
