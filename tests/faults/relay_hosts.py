"""Two relays behind one address, the operator that they ask, and hosts that ask them: all of them real processes."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from bidstream_svc.metrics import RefreshResult
from tests.faults.faulty_operator import FaultyOperator, faulty_operator
from tests.relay.balancer import balanced
from tests.support.metrics_page import scrape
from tests.support.raw_http import ask
from tests.support.sidecar import DEADLINE_S, Sidecar, wait_until

_KEYS = "/v2/key/bidstream"
_RELAYS = 2
# A pause between two starts, so that a fleet on one machine leaves some of it to those that run.
_BETWEEN_STARTS_S = 0.3


class RelayHosts:
    """A context manager: everything good so far; at its end, every process that is left is killed.

    Args:
        directory: for what the processes print, and the key caches of the relays.
        hosts: how many sidecars there are, of one worker each.
        interval_s: the refresh interval of relays and hosts.
        log_level: of all processes.

    Attributes:
        operator: the one that the relays ask.
        relays: their processes; one that is started again takes the place of the one that ended.
        hosts: the sidecars.
    """

    def __init__(self, directory: Path, hosts: int, interval_s: float, log_level: str = "warning") -> None:
        self._directory = directory
        self._count = hosts
        # The line "listening", which tells the addresses, is of level info.
        level = "info" if log_level == "warning" else log_level
        self._settings: dict[str, Any] = {"refresh_interval": interval_s, "log_level": level}
        self._stack = ExitStack()
        self._starts = 0
        self.operator: FaultyOperator
        self.relays: list[Sidecar] = []
        self.hosts: list[Sidecar] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.operator = stack.enter_context(faulty_operator(self._directory))
            self._stack = stack
            self.relays = [self._start_relay(place) for place in range(_RELAYS)]
            address = stack.enter_context(balanced([relay.data for relay in self.relays]))
            settings = self.operator.settings | {"operator_url": f"http://{address}"}
            for _ in range(self._count):
                self.hosts.append(self._start("host", **settings))
                time.sleep(_BETWEEN_STARTS_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def asked(self) -> int:
        """How many requests for keys the operator has had."""
        return self.operator.state.calls[_KEYS]

    def failed_refreshes(self) -> int:
        """How many refreshes of hosts have failed."""
        made = [scrape(host.admin).key_refreshes() for host in self.hosts]
        return sum(sum(counts.values()) - counts[RefreshResult.SUCCESS] for counts in made)

    def kill_relay(self, place: int) -> None:
        """SIGKILL."""
        relay = self.relays[place]
        relay.process.kill()
        relay.process.wait(DEADLINE_S)

    def restart_relay(self, place: int) -> None:
        """Start a relay on the port of one that has ended, and wait for its keys."""
        self.relays[place] = self._start_relay(place, self.relays[place].data)

    def wait_without_errors(self, timeout_s: float) -> None:
        """Wait until the last refresh of every relay that runs and of every host has succeeded."""
        running = [each for each in (*self.relays, *self.hosts) if each.process.poll() is None]
        wait_until(lambda: not _failing(running), "refreshes to succeed", timeout_s)

    def check_alive(self) -> None:
        """No process has ended by itself."""
        ended = [each.process.returncode for each in (*self.relays, *self.hosts) if each.process.poll() is not None]
        assert not ended, f"processes ended with {ended}"

    def _start_relay(self, place: int, listen: str = "127.0.0.1:0") -> Sidecar:
        settings = self.operator.settings | {"listen": listen, "key_cache": self._directory / f"keys-{place}"}
        with self.operator.trusted():
            return self._start(f"relay-{place}", "relay", **settings)

    def _start(self, name: str, *args: str, **settings: Any) -> Sidecar:
        self._starts += 1
        directory = self._directory / f"{self._starts}-{name}"
        directory.mkdir()
        process = Sidecar(directory, *args, **self._settings, **settings)
        return self._stack.enter_context(process).wait_started()


def _failing(processes: Sequence[Sidecar]) -> bool:
    return any(ask(each.admin, "/info", method="GET").json["last_refresh_error"] is not None for each in processes)
