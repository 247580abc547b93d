"""A supervisor of forked worker processes: it restarts those that end or hang, and forwards signals."""

import ctypes
import logging
import math
import os
import signal
import sys
import time
from dataclasses import dataclass, field

from bidstream_svc.core.errors import WorkersError
from bidstream_svc.core.units import NS_PER_S
from bidstream_svc.logs import get_logger
from bidstream_svc.server.stack_dump import StackDump
from bidstream_svc.server.stop_signals import EndTimer

_log = get_logger(__name__)

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS = _STOP_SIGNALS | {signal.SIGHUP, signal.SIGCHLD}
MAX_CHECK_PERIOD_S = 0.25
# If the supervisor itself wakes up later than this, the workers were probably stopped with it.
_LATE_S = 1.0
# A worker that ends earlier than this counts as a failed start.
_GOOD_START_S = 10.0
_MAX_FAILED_STARTS = 5
_FIRST_RESTART_DELAY_S = 0.25
# How long the workers may take to end after a second SIGTERM.
_SECOND_SIGNAL_GRACE_S = 0.6
# How long they may take to end after SIGKILL.
_KILL_GRACE_S = 0.5
_PR_SET_PDEATHSIG = 1


class Work:
    """What is supervised; `worker` is a number from 0. All but `run` are called in the parent."""

    def run(self, worker: int) -> None:
        """Do the work, in a process of its own that ends when this returns."""
        raise NotImplementedError

    def heartbeat_ns(self, worker: int) -> int:
        """Return the monotonic clock when the worker last gave a sign of life, in ns; 0 for never."""
        raise NotImplementedError

    def name(self, worker: int) -> int | str:
        """Return what the log calls this worker."""
        return worker

    def is_essential(self, worker: int) -> bool:  # noqa: ARG002
        """Whether the service ends if this worker cannot be started. Otherwise it is tried again for ever."""
        return True

    def on_restart(self, worker: int) -> None:
        """Note that a worker is about to be started again."""

    def on_hang(self, worker: int) -> None:
        """Note that a worker hung and has been killed."""

    def on_check(self) -> None:
        """Do what is due at every check, also while the workers stop."""

    def on_reload(self) -> None:
        """Note that SIGHUP has been forwarded to the workers."""

    def on_stopping(self) -> None:
        """Note that the workers have been told to end."""

    def on_stop(self) -> None:
        """Stop what the parent does; called `stop_delay_s` after `on_stopping`, or when all workers have ended."""


@dataclass(slots=True)
class _Worker:
    number: int
    pid: int = 0  # 0 while it waits to be restarted
    started_s: float = 0.0
    failed_starts: int = 0
    start_due_s: float = 0.0
    is_hung: bool = False  # it has been killed for it
    stack: StackDump = field(default_factory=StackDump)


class Supervisor:
    """Forks workers, restarts those that end or hang, and forwards signals to them.

    Args:
        work: the work of each worker, and what the parent does for it.
        workers: the number of workers.
        grace_s: how long the workers may take to end after SIGTERM, before they get SIGKILL.
        stop_delay_s: the time between `on_stopping` and `on_stop` of the work.
        hang_timeout_s: seconds without a heartbeat after which a worker gets SIGKILL.
        check_period_s: how often the workers are checked; at most MAX_CHECK_PERIOD_S.
    """

    def __init__(
        self,
        work: Work,
        workers: int,
        *,
        grace_s: float,
        stop_delay_s: float,
        hang_timeout_s: float,
        check_period_s: float = MAX_CHECK_PERIOD_S,
    ) -> None:
        self._work = work
        self._workers = [_Worker(number) for number in range(workers)]
        self._grace_s = grace_s
        self._stop_delay_s = stop_delay_s
        self._hang_timeout_s = hang_timeout_s
        self._check_period_s = check_period_s
        self._parent_pid = os.getpid()
        self._old_mask: set[int] = set()
        self._next_check_s = 0.0
        # Heartbeats count from here at the earliest.
        self._resumed_s = 0.0

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
            received = self._next_signal(
                min((worker.start_due_s for worker in self._workers if not worker.pid), default=math.inf)
            )
            if received in _STOP_SIGNALS:
                return
            if received == signal.SIGHUP:
                self._signal_all(signal.SIGHUP)
                self._work.on_reload()
            for worker in self._reap():
                self._plan_restart(worker)
            self._kill_hung()

    def _next_signal(self, deadline_s: float) -> int | None:
        """Wait for a signal until a deadline or the next check, and check if it is due. Returns None for no signal."""
        wait_s = min(deadline_s, self._next_check_s) - time.monotonic()
        received = signal.sigtimedwait(_SIGNALS, max(0.0, wait_s))
        now_s = time.monotonic()
        if now_s >= self._next_check_s:
            if now_s >= self._next_check_s + _LATE_S:
                self._resumed_s = now_s
            self._next_check_s = now_s + self._check_period_s
            self._work.on_check()
        return None if received is None else received.si_signo

    def _kill_hung(self) -> None:
        now_s = time.monotonic()
        for worker in self._workers:
            heartbeat_s = self._work.heartbeat_ns(worker.number) / NS_PER_S
            silent_s = now_s - max(heartbeat_s, worker.started_s, self._resumed_s)
            if worker.pid and not worker.is_hung and silent_s > self._hang_timeout_s:
                state, stack = worker.stack.take(worker.pid)
                os.kill(worker.pid, signal.SIGKILL)  # it also ends a stopped process
                worker.is_hung = True
                _log.error(
                    "worker hung",
                    worker=self._work.name(worker.number),
                    pid=worker.pid,
                    silent_s=round(silent_s, 1),
                    state=state,
                    stack=stack,
                )
                self._work.on_hang(worker.number)

    def _start(self, worker: _Worker) -> None:
        if worker.started_s:
            self._work.on_restart(worker.number)
        worker.started_s = time.monotonic()
        worker.is_hung = False
        sys.stdout.flush()
        sys.stderr.flush()
        worker.pid = os.fork()
        if worker.pid == 0:
            self._become_worker(worker)

    def _become_worker(self, worker: _Worker) -> None:
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
            worker.stack.arm()
            if os.getppid() == self._parent_pid:
                self._work.run(worker.number)
            status = 0
        except BaseException:  # noqa: BLE001 - no exception may reach the parent's frames
            _log.exception("worker failed", worker=self._work.name(worker.number))
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
                    name = self._work.name(worker.number)
                    _log.log(_level_of(code), "worker ended", worker=name, pid=pid, exit_code=code)
                    worker.pid = 0
                    ended.append(worker)
        return ended

    def _plan_restart(self, worker: _Worker) -> None:
        now_s = time.monotonic()
        if worker.is_hung or now_s - worker.started_s >= _GOOD_START_S:
            worker.failed_starts = 0
            worker.start_due_s = now_s
            return
        worker.failed_starts = min(worker.failed_starts + 1, _MAX_FAILED_STARTS)
        if worker.failed_starts == _MAX_FAILED_STARTS and self._work.is_essential(worker.number):
            raise WorkersError(f"worker {worker.number} died {worker.failed_starts} times right after its start")
        worker.start_due_s = now_s + _FIRST_RESTART_DELAY_S * 2 ** (worker.failed_starts - 1)

    def _stop(self) -> None:
        timer = EndTimer()  # this process may wait, too: for its log to be written
        timer.start(self._grace_s + _KILL_GRACE_S)
        self._signal_all(signal.SIGTERM)
        self._work.on_stopping()
        now_s = time.monotonic()
        stop_due_s, kill_due_s, has_killed = now_s + self._stop_delay_s, now_s + self._grace_s, False
        while any(worker.pid for worker in self._workers):
            received = self._next_signal(min(stop_due_s, kill_due_s))
            now_s = time.monotonic()
            if received in _STOP_SIGNALS:
                self._signal_all(signal.SIGTERM)  # a second SIGTERM ends draining
                kill_due_s = min(kill_due_s, now_s + _SECOND_SIGNAL_GRACE_S)
                timer.start(kill_due_s - now_s + _KILL_GRACE_S)
            if now_s >= stop_due_s:
                stop_due_s = math.inf
                self._work.on_stop()
            self._reap()
            if now_s >= kill_due_s:
                if has_killed:
                    return  # a worker in a system call that cannot be interrupted
                has_killed = True
                self._signal_all(signal.SIGKILL)
                kill_due_s = now_s + _KILL_GRACE_S
        if stop_due_s < math.inf:
            self._work.on_stop()

    def _signal_all(self, number: int) -> None:
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, number)


def _level_of(exit_code: int) -> int:
    return logging.INFO if exit_code == 0 else logging.ERROR
