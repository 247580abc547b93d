"""The picture of the dashboard in docs/: `python -m benchmarks.dashboard`, four minutes, needs Prometheus.

A real Prometheus watches two real sidecars under changing load while their operator first rotates its keys and then
fails for a while. It goes 15 times as fast as configured, so that a minute stands for a quarter of an hour.
"""

import math
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

from benchmarks.dashboard_picture import Span, draw_dashboard
from bidstream_svc.devoperator import Fault, Lifetimes, OperatorState
from tests.support.operator import operator_in_thread
from tests.support.prometheus import Prometheus
from tests.support.raw_http import Connection
from tests.support.sidecar import Sidecar, operator_settings

PICTURE = Path(__file__).parents[1] / "docs" / "dashboard.png"

_SPEED = 15
_DURATION_S = 240
_KEYS_ROTATE_AT_S = 70
_OPERATOR_FAILS_AT_S = 110
_OPERATOR_IS_BACK_AT_S = 190
_REFRESH_INTERVAL_S = 20
_KEY_LIFETIME_S = 30 * 3600
_MEAN_RPS = 60


def main() -> None:
    """Run the scenario and draw it."""
    state = OperatorState(seed=7, lifetimes=Lifetimes(key_s=_KEY_LIFETIME_S))
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        operator = stack.enter_context(operator_in_thread(state))
        settings = operator_settings(operator) | {"refresh_interval": _REFRESH_INTERVAL_S}
        sidecars = []
        for name in ("a", "b"):
            directory = Path(scratch, name)
            directory.mkdir()
            sidecars.append(stack.enter_context(Sidecar(directory, **settings)).wait_ready())
        admins = [sidecar.admin for sidecar in sidecars]
        prometheus = stack.enter_context(Prometheus(Path(scratch), *admins, speed=_SPEED))
        for sidecar in sidecars:
            stack.enter_context(_load(sidecar.data, state))
        start_s = time.time()
        _run_scenario(state)
        draw_dashboard(prometheus, Span(start_s, time.time()), PICTURE)


def _run_scenario(state: OperatorState) -> None:
    time.sleep(_KEYS_ROTATE_AT_S)
    state.rotate_keys()
    time.sleep(_OPERATOR_FAILS_AT_S - _KEYS_ROTATE_AT_S)
    state.faults.inject(Fault.SERVER_ERROR, times=None)
    time.sleep(_OPERATOR_IS_BACK_AT_S - _OPERATOR_FAILS_AT_S)
    state.faults.clear()
    time.sleep(_DURATION_S - _OPERATOR_IS_BACK_AT_S)


@contextmanager
def _load(address: str, state: OperatorState) -> Iterator[None]:
    """A bidder: its rate goes up and down, its tokens are mostly good."""
    done = Event()
    draw = random.Random(address)

    def send() -> None:
        with Connection(address) as connection:
            while not done.wait(draw.expovariate(_MEAN_RPS * (1 + 0.6 * math.sin(time.time() / 35)))):
                if draw.random() < 0.01:
                    connection.ask("/decrypt/batch", {"requests": [{"token": _token(state, draw)} for _ in range(50)]})
                else:
                    connection.ask("/decrypt", {"token": _token(state, draw), "domain": "example.net"})

    thread = Thread(target=send, name="bidder")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _token(state: OperatorState, draw: random.Random) -> str:
    lot = draw.random()
    if lot < 0.06:
        return state.mint_token(lifetime_s=-60)
    if lot < 0.09:
        return state.mint_token(client_side=True)
    if lot < 0.10:
        return "abcd"
    return state.mint_token(draw.choice((2, 3, 4)))


if __name__ == "__main__":
    main()
