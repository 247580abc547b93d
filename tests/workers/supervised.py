"""A program that supervises two workers of a given kind and prints events as JSON lines."""

import json
import os
import signal
import sys
import time

from bidstream_svc.core.errors import WorkersError
from bidstream_svc.logs import configure_logging
from bidstream_svc.server import supervisor

# Seconds that a test need not wait.
supervisor._FIRST_RESTART_DELAY_S = 0.01


def tell(event: str, **details: object) -> None:
    os.write(1, json.dumps({"event": event, **details}).encode() + b"\n")


def wait_for_ever(number: int) -> None:
    tell("work", worker=number, pid=os.getpid())
    while True:
        signal.pause()


def end_by_sigterm(number: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    wait_for_ever(number)


def ignore_sigterm(number: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait_for_ever(number)


def ignore_first_sigterm(number: int) -> None:
    """As a worker that drains."""

    def ignore(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        tell("drain", worker=number)

    signal.signal(signal.SIGTERM, ignore)
    wait_for_ever(number)


def fail(number: int) -> None:
    tell("work", worker=number, pid=os.getpid())
    if number == 0:
        raise RuntimeError("a secret token")
    end_by_sigterm(number)


def note_hangup(number: int) -> None:
    signal.signal(signal.SIGHUP, lambda *_: tell("hangup", worker=number))
    end_by_sigterm(number)


WORK = {work.__name__: work for work in (end_by_sigterm, ignore_sigterm, ignore_first_sigterm, fail, note_hangup)}


def main() -> None:
    configure_logging("info", "json")
    kind, *changes = sys.argv[1:]
    for change in changes:
        name, _, value = change.partition("=")
        setattr(supervisor, name, float(value))
    watched = supervisor.Supervisor(
        WORK[kind],
        2,
        grace_s=0.2 if kind == "ignore_sigterm" else 60,
        on_restart=lambda number: tell("restart", worker=number),
        stop_delay_s=0,
        on_stop=lambda: tell("stop"),
    )
    if "orphans" in os.environ:
        watched._parent_pid = 0  # as if the parent had died between fork and work
    started_s = time.monotonic()
    try:
        watched.run()
    except WorkersError as error:
        tell("gave up", error=str(error))
    tell("end", blocked=len(signal.pthread_sigmask(signal.SIG_BLOCK, ())), lasted_s=time.monotonic() - started_s)


if __name__ == "__main__":
    main()
