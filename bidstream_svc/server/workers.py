"""One process, or a parent that supervises several workers and the process of the opt-out store.

Each worker has its own TCP sockets on the same ports, and the kernel distributes connections between them. The parent
keeps all sockets open, so that connections to a worker that ended wait for its replacement. Counters live in shared
memory, so that they do not decrease when a worker ends.
"""

import gc
import os
import signal

from bidstream_svc.config import Settings
from bidstream_svc.core.domains import load_public_suffixes
from bidstream_svc.keystore.shared_keys import make_shared_file
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import ACCEPTING, HEARTBEAT_NS, WORKER_RESTARTS, WORKERS_HUNG
from bidstream_svc.server.optout_health import check_optouts
from bidstream_svc.server.plane_server import SHUTDOWN_DELAY_S
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.running import run
from bidstream_svc.server.service import Family, serve
from bidstream_svc.server.socket_files import SocketFiles, SocketHandover
from bidstream_svc.server.sockets import Listener, Listeners, open_listeners_each, open_optout_listeners
from bidstream_svc.server.supervisor import MAX_CHECK_PERIOD_S, Supervisor, Work
from bidstream_svc.server.systemd import ServiceManager

# How much longer than the drain time-out a worker may take to end. It ends itself a little earlier; see StopSignals.
_EXIT_GRACE_S = 0.95
# The process of the opt-out store takes no processor time that the workers need.
_OPTOUT_NICENESS = 5


def run_service(settings: Settings) -> None:
    """Serve with the number of processes in the settings, until a stop signal.

    Raises:
        ListenError: an address cannot be used.
        ConfigurationError: a setting is missing or invalid, or a file that it names cannot be used.
        OptOutStoreError: the opt-out store is damaged or of another version.
        WorkersError: a worker ended several times in a row right after its start.
    """
    check_optouts(settings)
    listeners = open_listeners_each(settings, settings.workers)
    metrics = MetricCells(labels_of(ROUTES), settings.workers)
    manager = ServiceManager()
    try:
        if settings.optout_store is not None:
            listeners.append(Listeners(optouts=open_optout_listeners(settings)))
        if len(listeners) == 1:
            run(serve(settings, listeners[0], metrics, manager=manager))
            return
        # Loaded before the fork, its memory is shared. A collection in a worker would write to it and so copy it.
        load_public_suffixes()
        gc.freeze()
        supervisor = Supervisor(
            _ServiceWork(settings, listeners, metrics, manager),
            len(listeners),
            grace_s=settings.drain_timeout + _EXIT_GRACE_S,
            stop_delay_s=min(SHUTDOWN_DELAY_S, settings.drain_timeout),
            hang_timeout_s=settings.hang_timeout,
            check_period_s=manager.period_s(MAX_CHECK_PERIOD_S),
        )
        supervisor.run()
    finally:
        for group in listeners:
            group.close()
        manager.close()


class _ServiceWork(Work):
    """Serves in each worker, and behind the workers' numbers that of the opt-out store, if there is one.

    The parent counts, binds lost Unix sockets again, and tells systemd the state.
    """

    def __init__(
        self, settings: Settings, listeners: list[Listeners], metrics: MetricCells, manager: ServiceManager
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics = metrics
        self._manager = manager
        self._shared_keys = [make_shared_file() for _ in settings.operators]
        self._handovers = [SocketHandover() for _ in listeners]
        self._socket_files = SocketFiles((listener for group in listeners for listener in group.all), self._hand_over)

    def run(self, worker: int) -> None:
        metrics, handover = self._metrics, self._handovers[worker]
        metrics.take_row(worker)
        _close_listeners_of_other_workers(self._listeners, worker)
        for other in self._handovers:
            if other is not handover:
                other.close()
        if self.is_essential(worker):
            family = Family(bool(metrics.row[WORKER_RESTARTS]), self._shared_keys, handover)
            main = serve(self._settings, self._listeners[worker], metrics, stop_signals=[signal.SIGTERM], family=family)
        else:
            # Here, because the client of Redis would cost every worker 10 MB.
            from bidstream_svc.server.optout_process import serve_optouts  # noqa: PLC0415

            os.nice(_OPTOUT_NICENESS)
            main = serve_optouts(
                self._settings, self._listeners[worker], metrics, stop_signals=[signal.SIGTERM], handover=handover
            )
        run(main)

    def name(self, worker: int) -> int | str:
        return worker if self.is_essential(worker) else "optouts"

    def is_essential(self, worker: int) -> bool:
        return worker < self._settings.workers

    def heartbeat_ns(self, worker: int) -> int:
        return self._metrics.all_rows[worker][HEARTBEAT_NS]

    def on_restart(self, worker: int) -> None:
        self._metrics.all_rows[worker][WORKER_RESTARTS] += 1

    def on_hang(self, worker: int) -> None:
        self._metrics.all_rows[worker][WORKERS_HUNG] += 1

    def on_check(self) -> None:
        if all(row[ACCEPTING] for row in self._metrics.rows):
            self._manager.ready()
        self._manager.beat()
        self._socket_files.check()

    def on_reload(self) -> None:
        self._manager.reloaded()

    def on_stopping(self) -> None:
        self._manager.stopping()
        # Now, because connections would be queued on these copies after the workers have accepted theirs.
        for group in self._listeners:
            for listener in group.all:
                listener.socket.close()

    def on_stop(self) -> None:
        for group in self._listeners:
            group.close()

    def _hand_over(self, listener: Listener) -> None:
        for handover in self._handovers:
            handover.send(listener)


def _close_listeners_of_other_workers(listeners: list[Listeners], worker: int) -> None:
    """Close the sockets of other workers, which a worker inherits.

    While a copy is open, the kernel still queues connections on a socket that its own worker has closed.
    """
    own = {listener.socket for listener in listeners[worker].all}
    for socket in {listener.socket for group in listeners for listener in group.all} - own:
        socket.close()
