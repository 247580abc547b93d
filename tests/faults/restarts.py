"""Rolling restarts under load: two instances on TCP, and a new instance that replaces a Unix socket."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from tests.faults.clients import exchanges, running_clients
from tests.faults.faulty_operator import FaultyOperator, faulty_operator
from tests.faults.outcome import Effort, Outcome
from tests.support.sidecar import DEADLINE_S, Sidecar

_MIN_REQUESTS = 200


class _Starter:
    """Starts sidecars of one operator, each with a directory for what it prints."""

    def __init__(self, operator: FaultyOperator, directory: Path) -> None:
        self._operator = operator
        self._directories = (directory / f"instance-{number}" for number in count())

    def start(self, listen: str) -> Sidecar:
        directory = next(self._directories)
        directory.mkdir()
        with self._operator.trusted():
            return Sidecar(directory, listen=listen, **self._operator.settings)


@contextmanager
def _starter(directory: Path) -> Iterator[tuple[FaultyOperator, _Starter]]:
    with faulty_operator(directory) as operator:
        yield operator, _Starter(operator, directory)


def _end(sidecar: Sidecar) -> None:
    sidecar.signal(signal.SIGTERM)
    assert sidecar.process.wait(DEADLINE_S) == 0, sidecar.stderr


def try_two_instances(directory: Path, effort: Effort) -> Outcome:
    """One after the other ends and is started again on its port; clients go to the other one meanwhile."""
    with _starter(directory) as (operator, starter), ExitStack() as stack:
        instances = [stack.enter_context(starter.start("127.0.0.1:0")).wait_ready() for _ in range(2)]
        addresses = [instance.data for instance in instances]
        clients = stack.enter_context(running_clients(addresses, exchanges(operator.state)))
        clients.wait_for(_MIN_REQUESTS)
        begun_s = time.monotonic()
        for instance, address in zip(instances, addresses, strict=True):
            _end(instance)
            stack.enter_context(starter.start(address)).wait_ready()
            clients.wait_for(_MIN_REQUESTS)
            clients.wait_for_seconds(effort.fault_s / 2)
        took_s = time.monotonic() - begun_s
        tally = clients.tally
    remark = f"{tally.repeated} requests repeated; both restarted within {took_s:.1f} s"
    return Outcome("rolling restart of two instances on TCP", tally, None, remark)


def try_unix_successor(directory: Path, effort: Effort) -> Outcome:
    """Clients connect to a link. It is replaced once the successor is ready, and then the old one ends."""
    link, paths = directory / "data.sock", (directory / "a.sock", directory / "b.sock")
    with _starter(directory) as (operator, starter), ExitStack() as stack:
        serving = stack.enter_context(starter.start(f"unix:{paths[0]}")).wait_ready()
        link.symlink_to(paths[0])
        clients = stack.enter_context(running_clients(f"unix:{link}", exchanges(operator.state)))
        begun_s = time.monotonic()
        for restart in range(1, 2 if effort.hurries else 3):
            clients.wait_for(_MIN_REQUESTS)
            clients.wait_for_seconds(effort.fault_s / 2)
            path = paths[restart % 2]
            successor = stack.enter_context(starter.start(f"unix:{path}")).wait_ready()
            (directory / "next").symlink_to(path)
            (directory / "next").rename(link)
            _end(serving)
            serving = successor
        clients.wait_for(_MIN_REQUESTS)
        took_s = time.monotonic() - begun_s
        tally = clients.tally
    remark = f"{tally.repeated} requests repeated; restarted within {took_s:.1f} s"
    return Outcome("rolling restart through a Unix socket", tally, None, remark)


RESTARTS = (try_two_instances, try_unix_successor)
