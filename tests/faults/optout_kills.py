"""`python -m tests.faults.optout_kills --times 1000`: kill -9 at random moments, while opt-outs arrive.

Each of several hosts is a sidecar with a webhook of its own. Its processes are killed at random moments: the one that
holds the store, a worker, or all of them at once. With `--full DIRECTORY`, a small file system, the disk is full half
of the time, too.

At the end every id whose webhook was answered with 200 must be in the store, and nothing else. Exit status 1 if not.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.optouts.optout_store import OptOutStore
from tests.faults.optout_fleet import Webhooks, all_optouts, descendants, free_port
from tests.support.operator import operator_in_thread
from tests.support.processes import exit_on_sigterm
from tests.support.sidecar import DEADLINE_S, Sidecar, operator_settings

_MIN_PAUSE_S, _MAX_PAUSE_S = 0.05, 1.5


class _Host:
    """A sidecar with a webhook, which is killed and started again."""

    def __init__(self, directory: Path, store: Path, operator: DevOperator, seed: int) -> None:
        self._directory, self._store, self._operator = directory, store, operator
        self._random = random.Random(seed)  # noqa: S311 - moments of a test
        self.port = free_port()
        self.kills = dict.fromkeys(("store process", "worker", "all"), 0)
        self._sidecar = self._start()

    def _start(self) -> Sidecar:
        sidecar = Sidecar(
            self._directory,
            **operator_settings(self._operator),
            workers=2,
            optout_store=self._store,
            optout_listen=f"127.0.0.1:{self.port}",
        )
        return sidecar.__enter__()

    def kill(self) -> None:
        """Kill one process, or all."""
        parent = self._sidecar.process.pid
        children = descendants(parent)[1:]
        what = self._random.choices(("store process", "worker", "all"), (6, 1, 3))[0]
        if what == "all" or not children:
            what = "all"
            for pid in [parent, *children]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._sidecar.process.wait(DEADLINE_S)
            self._sidecar = self._start()
        else:
            with suppress(ProcessLookupError):
                os.kill(children[-1] if what == "store process" else children[0], signal.SIGKILL)
        self.kills[what] += 1

    def stop(self) -> None:
        self._sidecar.stop()
        self._sidecar.__exit__(None, None, None)

    def held(self) -> set[bytes]:
        with OptOutStore(self._store) as store:
            return {optout.raw_id for scope in IdentityScope for optout in all_optouts(store, scope)}


def _fill(ballast: Path) -> None:
    """Take all the room that is left."""
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(65_536))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--hosts", type=int, default=2, help="how many are killed side by side")
    parser.add_argument("--rate", type=float, default=200, help="webhooks a second for each host")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--full", type=Path, help="a small file system for the stores, which is filled at times")
    options = parser.parse_args()
    exit_on_sigterm()
    moments = random.Random(options.seed)  # noqa: S311
    is_good = True
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        operator = stack.enter_context(operator_in_thread())
        hosts, webhooks = [], []
        for number in range(options.hosts):
            directory = Path(scratch) / f"host{number}"
            directory.mkdir()
            store = (options.full or directory) / f"store{number}"
            host = _Host(directory, store, operator, options.seed + number)
            hosts.append(host)
            webhooks.append(stack.enter_context(Webhooks([host.port], options.rate, seed=options.seed + number)))
        ballast = Path(options.full or scratch) / "ballast"
        begun_s = time.monotonic()
        for number in range(options.times):
            time.sleep(moments.uniform(_MIN_PAUSE_S, _MAX_PAUSE_S) / options.hosts)
            if options.full is not None and number % 10 == 0:
                _fill(ballast)
                time.sleep(moments.uniform(_MIN_PAUSE_S, _MAX_PAUSE_S))
            hosts[number % len(hosts)].kill()
            if number % 10 == 5:
                ballast.unlink(missing_ok=True)
        ballast.unlink(missing_ok=True)
        for sending in webhooks:
            sending.stop()
        for host in hosts:
            host.stop()
        for host, sending in zip(hosts, webhooks, strict=True):
            acknowledged, held = {raw_id for raw_id, _ in sending.acknowledged}, host.held()
            lost, foreign = len(acknowledged - held), len(held - sending.sent)
            sys.stdout.write(f"kills {host.kills}: {len(acknowledged)} acknowledged, {lost} lost, {foreign} not sent\n")
            is_good = is_good and not lost and not foreign
        sys.stdout.write(f"{options.times} kills in {time.monotonic() - begun_s:.0f} s\n")
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
