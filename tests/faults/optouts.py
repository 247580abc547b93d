"""`python -m tests.faults.optouts`: opt-outs through a fleet, while Redis and receivers fail.

Two receivers, three sidecars with two workers each, a Redis server: all real processes. Webhooks arrive at a rate
throughout. For some of them, every host is asked for a token with that raw uid until it says USER_OPTED_OUT.

Prints for each scene the time from the 200 of a webhook to the first USER_OPTED_OUT on every host, and how long after
the scene all hosts were level. At the end the stores are compared: exit status 1 if an acknowledged id is missing
anywhere, or one is there that was not sent.
"""

import argparse
import base64
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from threading import Event, Thread

from bidstream_svc.devoperator import OperatorState
from tests.faults.optout_fleet import Fleet, Webhooks, compare_stores, wait_level
from tests.support.operator import operator_in_thread
from tests.support.processes import exit_on_sigterm
from tests.support.raw_http import Connection
from tests.support.sidecar import Sidecar

_POLL_S = 0.005
_BETWEEN_SAMPLES_S = 0.1
_GIVEN_UP_S = 240.0


class Sampler:
    """Measures, webhook after webhook, how long hosts go on answering the raw uid.

    Attributes:
        delays_s: from the 200 to the first USER_OPTED_OUT on the slowest host.
    """

    def __init__(self, state: OperatorState, webhooks: Webhooks, hosts: Sequence[Sidecar]) -> None:
        self._state, self._webhooks, self._hosts = state, webhooks, hosts
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="sampler")
        self._seen = 0
        self._acknowledged_s: dict[bytes, float] = {}
        self._number = 0
        self.delays_s: list[float] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def take(self) -> list[float]:
        """The delays since the last call."""
        delays_s, self.delays_s = self.delays_s, []
        return delays_s

    def _run(self) -> None:
        with ThreadPoolExecutor(len(self._hosts)) as pool:
            while not self._stopping.wait(_BETWEEN_SAMPLES_S):
                self._number += 1
                identity = f"sample{self._number}@example.com"
                token = self._state.mint_token(4, identity=identity)
                raw_id = base64.b64decode(self._state.raw_uid(identity))
                self._webhooks.wanted.append(raw_id)
                acknowledged_s = self._wait_acknowledged(raw_id)
                ends_s = list(pool.map(_opted_out_at_s, self._hosts, repeat(token)))
                self.delays_s.append(max(ends_s) - acknowledged_s)

    def _wait_acknowledged(self, raw_id: bytes) -> float:
        while raw_id not in self._acknowledged_s:
            time.sleep(_POLL_S / 5)
            new = self._webhooks.acknowledged[self._seen :]
            self._seen += len(new)
            self._acknowledged_s.update(new)
        return self._acknowledged_s[raw_id]


def _opted_out_at_s(host: Sidecar, token: str) -> float:
    deadline_s = time.monotonic() + _GIVEN_UP_S
    with Connection(host.data) as connection:
        while connection.ask("/decrypt", {"token": token}).json["status"] != "USER_OPTED_OUT":
            assert time.monotonic() < deadline_s, "an acknowledged opt-out does not arrive"
            time.sleep(_POLL_S)
        return time.monotonic()


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _show(name: str, sampler: Sampler, webhooks: Webhooks, level_s: float) -> None:
    delays_s, answers_s = sampler.take(), webhooks.answered_after_s
    webhooks.answered_after_s = []
    delay = " / ".join(f"{_quantile(delays_s, share):.3f}" for share in (0.5, 0.99, 1)) if delays_s else "-"
    answer = " / ".join(f"{_quantile(answers_s, share) * 1000:.1f}" for share in (0.5, 0.99, 1))
    sys.stdout.write(
        f"{name:34} opted out everywhere after p50/p99/max {delay} s ({len(delays_s)} samples);"
        f" 200 after p50/p99/max {answer} ms ({len(answers_s)}); level after {level_s:.1f} s\n"
    )
    sys.stdout.flush()


def _scenes(fleet: Fleet, pause_s: float, steady_s: float) -> list[tuple[str, Callable[[], None]]]:
    def redis_stopped() -> None:
        fleet.redis.save()
        fleet.redis.kill()
        time.sleep(pause_s)
        fleet.redis.start()

    def redis_hangs() -> None:
        fleet.redis.pause()
        time.sleep(pause_s / 4)
        fleet.redis.resume()

    def redis_emptied() -> None:
        fleet.redis.kill()
        fleet.redis.forget()
        fleet.redis.start()

    def receiver_killed() -> None:
        fleet.kill_receiver(0)
        time.sleep(pause_s / 4)
        fleet.restart_receiver(0)

    return [
        ("steady", lambda: time.sleep(steady_s)),
        (f"Redis stopped for {pause_s:.0f} s", redis_stopped),
        (f"Redis hangs for {pause_s / 4:.0f} s", redis_hangs),
        ("Redis restarted empty", redis_emptied),
        (f"a receiver killed, back after {pause_s / 4:.0f} s", receiver_killed),
        ("steady", lambda: time.sleep(steady_s)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2_000, help="webhooks a second")
    parser.add_argument("--pause", type=float, default=60, help="for how long Redis is stopped, in seconds")
    parser.add_argument("--steady", type=float, default=30, help="length of a scene without faults, in seconds")
    parser.add_argument("--sidecars", type=int, default=3)
    options = parser.parse_args()
    exit_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch, operator_in_thread() as operator:
        with Fleet(Path(scratch), operator, sidecars=options.sidecars) as fleet:
            with Webhooks(fleet.ports, options.rate) as webhooks:
                sampler = Sampler(operator.state, webhooks, fleet.sidecars)
                sampler.start()
                for name, play in _scenes(fleet, options.pause, options.steady):
                    play()
                    level_s = wait_level(fleet, webhooks)
                    _show(name, sampler, webhooks, level_s)
                sampler.stop()
            wait_level(fleet, webhooks)
        is_good = compare_stores(fleet, webhooks)
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
