"""A supervisor of forked worker processes: it restarts those that end and forwards signals."""

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from bidstream_svc.core.errors import WorkersError
from bidstream_svc.logs import get_logger
from bidstream_svc.server.stop_signals import EndTimer

_log = get_logger(__name__)

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS = _STOP_SIGNALS | {signal.SIGHUP, signal.SIGCHLD}
_IDLE_WAIT_S = 3600.0
# A worker that ends earlier than this counts as a failed start.
_GOOD_START_S = 10.0
_MAX_FAILED_STARTS = 5
_FIRST_RESTART_DELAY_S = 0.25
# How long the workers may take to end after a second SIGTERM.
_SECOND_SIGNAL_GRACE_S = 0.6
# How long they may take to end after SIGKILL.
_KILL_GRACE_S = 0.5
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class _Worker:
    number: int
    pid: int = 0  # 0 while it waits to be restarted
    started_s: float = 0.0
    failed_starts: int = 0
    start_due_s: float = 0.0


class Supervisor:
    """Forks workers, restarts those that end, and forwards signals to them.

    Args:
        work: called in each worker with its number, from 0; the worker exits when it returns.
        workers: the number of workers.
        grace_s: how long the workers may take to end after SIGTERM, before they get SIGKILL.
        stop_delay_s: the time between SIGTERM and the call of `on_stop`.
        on_restart: called with the number of a worker before it is started again.
        on_stop: called once the workers have been told to end.
    """

    def __init__(
        self,
        work: Callable[[int], None],
        workers: int,
        *,
        grace_s: float,
        stop_delay_s: float,
        on_restart: Callable[[int], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._work = work
        self._workers = [_Worker(number) for number in range(workers)]
        self._grace_s = grace_s
        self._stop_delay_s = stop_delay_s
        self._on_restart = on_restart
        self._on_stop = on_stop
        self._parent_pid = os.getpid()
        self._old_mask: set[int] = set()

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT, then stop all workers. SIGHUP is forwarded.

        Raises:
            WorkersError: a worker ended several times in a row right after its start.
        """
        # Blocked and received by sigtimedwait: no signal is lost between a check and the wait.
        self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._supervise()
        finally:
            self._stop()
            signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)

    def _supervise(self) -> None:
        while True:
            now_s = time.monotonic()
            for worker in self._workers:
                if not worker.pid and now_s >= worker.start_due_s:
                    self._start(worker)
            due_s = min(
                (worker.start_due_s for worker in self._workers if not worker.pid), default=now_s + _IDLE_WAIT_S
            )
            received = signal.sigtimedwait(_SIGNALS, max(0.0, due_s - now_s))
            if received is not None and received.si_signo in _STOP_SIGNALS:
                return
            if received is not None and received.si_signo == signal.SIGHUP:
                self._signal_all(signal.SIGHUP)
            for worker in self._reap():
                self._plan_restart(worker)

    def _start(self, worker: _Worker) -> None:
        if worker.started_s:
            self._on_restart(worker.number)
        worker.started_s = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        worker.pid = os.fork()
        if worker.pid == 0:
            self._become_worker(worker.number)

    def _become_worker(self, number: int) -> None:
        """Run `work`, then end the process: the parent's code up the stack must not continue in the child."""
        status = 1
        try:
            # The kernel sends SIGTERM to this worker when the parent ends.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            # A terminal sends SIGINT to the whole process group; only the parent handles it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # By default SIGHUP ends a process. It is ignored until the handler is installed; secrets are read later.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
            if os.getppid() == self._parent_pid:
                self._work(number)
            status = 0
        except BaseException:  # noqa: BLE001 - no exception may reach the parent's frames
            _log.exception("worker failed", worker=number)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> list[_Worker]:
        """Collect the exit status of the workers that have ended, and return them."""
        ended = []
        for worker in self._workers:
            if worker.pid:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    code = os.waitstatus_to_exitcode(status)
                    _log.log(_level_of(code), "worker ended", worker=worker.number, pid=pid, exit_code=code)
                    worker.pid = 0
                    ended.append(worker)
        return ended

    def _plan_restart(self, worker: _Worker) -> None:
        now_s = time.monotonic()
        if now_s - worker.started_s >= _GOOD_START_S:
            worker.failed_starts = 0
            worker.start_due_s = now_s
            return
        worker.failed_starts += 1
        if worker.failed_starts >= _MAX_FAILED_STARTS:
            raise WorkersError(f"worker {worker.number} died {worker.failed_starts} times right after its start")
        worker.start_due_s = now_s + _FIRST_RESTART_DELAY_S * 2 ** (worker.failed_starts - 1)

    def _stop(self) -> None:
        timer = EndTimer()  # this process may wait, too: for its log to be written
        timer.start(self._grace_s + _KILL_GRACE_S)
        self._signal_all(signal.SIGTERM)
        now_s = time.monotonic()
        call_due_s, kill_due_s, has_called, has_killed = now_s + self._stop_delay_s, now_s + self._grace_s, False, False
        while any(worker.pid for worker in self._workers):
            due_s = kill_due_s if has_called else min(call_due_s, kill_due_s)
            received = signal.sigtimedwait(_SIGNALS, max(0.0, due_s - time.monotonic()))
            now_s = time.monotonic()
            if received is not None and received.si_signo in _STOP_SIGNALS:
                self._signal_all(signal.SIGTERM)  # a second SIGTERM ends draining
                kill_due_s = min(kill_due_s, now_s + _SECOND_SIGNAL_GRACE_S)
                timer.start(kill_due_s - now_s + _KILL_GRACE_S)
            if now_s >= call_due_s and not has_called:
                has_called = True
                self._on_stop()
            self._reap()
            if now_s >= kill_due_s:
                if has_killed:
                    return  # a worker in a system call that cannot be interrupted
                has_killed = True
                self._signal_all(signal.SIGKILL)
                kill_due_s = now_s + _KILL_GRACE_S
        if not has_called:
            self._on_stop()

    def _signal_all(self, number: int) -> None:
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, number)


def _level_of(exit_code: int) -> int:
    return logging.INFO if exit_code == 0 else logging.ERROR
