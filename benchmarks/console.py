"""Latency of the data plane while people use the console: `python -m benchmarks.console`.

A process asks the console all the time for one of: a token explained, a bid request of 500 KiB explained, the state,
the support bundle. Shots without it alternate with those of each.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import LOAD_CPU, on_cpu
from benchmarks.material import KeySet, write_requests
from benchmarks.rounds import interleave
from benchmarks.shots import FULL, Aim, Shot, shoot, summarise
from benchmarks.targets import key_server, service
from benchmarks.traffic import make_traffic, traffic_requests
from tests.support.raw_http import Connection

_KEY_SET = KeySet(100)
_API_KEY = "console"
_QUIET = "nobody"
_PATHS = {"token": "/console/explain", "bid request": "/console/explain", "bundle": "/console/bundle"}
_USES = (*_PATHS, "state")
_ROUNDS = 5
_RATE = 2_000.0
_BID_REQUEST_BYTES = 500 * 1024
_MAX_TOKENS = 100


def measure_console() -> dict[str, Any]:
    """Measure latency by what the console is asked for."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        samples = make_traffic(_KEY_SET, FULL.samples)
        requests = write_requests(directory / "requests", traffic_requests(samples))
        tokens = [sample.token for sample in samples[:_MAX_TOKENS]]
        bodies = {
            "token": {"token": tokens[0]},
            "bid request": {"bid_request": _long_bid_request(tokens)},
            "bundle": {},
        }
        (directory / "bodies").write_text(json.dumps(bodies))
        with (
            key_server(directory, {_API_KEY: _KEY_SET}) as url,
            service(directory, url, _API_KEY, console=True) as server,
        ):
            aim = Aim(server, server.tcp, requests)
            plans = {use: partial(_shoot, aim, directory / "bodies", use) for use in (_QUIET, *_USES)}
            shots = interleave(plans, _ROUNDS)
    return {
        use: {
            **summarise(of_use),
            **{f"more_{quantile}_us": _growth(of_use, shots[_QUIET], quantile) for quantile in ("p50", "p90", "p99")},
        }
        for use, of_use in shots.items()
    }


def _long_bid_request(tokens: list[str]) -> dict[str, Any]:
    eids = [{"source": "uidapi.com", "uids": [{"id": token, "atype": 3} for token in tokens]}]
    request = {"id": "1", "site": {"page": "https://www.example.com/"}, "user": {"eids": eids}}
    missing = _BID_REQUEST_BYTES - len(json.dumps(request))
    eids += [{"source": f"vendor{number}.example", "uids": [{"id": "x" * 300}]} for number in range(missing // 360)]
    return request


def _shoot(aim: Aim, bodies: Path, use: str) -> Shot:
    with _using(aim.server.admin, bodies, use):
        return shoot(aim, 2 * FULL.seconds, _RATE)


def _growth(shots: list[Shot], without: list[Shot], quantile: str) -> float:
    return median(
        shot.load.quantiles_us[quantile] - other.load.quantiles_us[quantile]
        for shot, other in zip(shots, without, strict=True)
    )


@contextmanager
def _using(address: str, bodies: Path, use: str) -> Iterator[None]:
    """Ask the console all the time, in a process of its own."""
    if use == _QUIET:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.console", address, str(bodies), use]
    with on_cpu(LOAD_CPU):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _ask(address: str, bodies: Path, use: str) -> None:
    body = json.loads(bodies.read_text()).get(use)
    content = None if body is None else json.dumps(body).encode()
    path = _PATHS.get(use, "/console/state")
    with Connection(address, timeout_s=60) as connection:
        while True:
            answer = connection.ask(path, content, method="GET" if body is None else "POST")
            if answer.status != 200:
                raise RuntimeError(f"not an answer: {answer.body[:200]!r}")
            print("answered", flush=True)


def main() -> None:
    if len(sys.argv) > 1:
        _ask(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
        return
    for use, result in measure_console().items():
        quantiles = [
            f"{name} {result['quantiles_us'][name]:7.0f} us ({result[f'more_{name}_us']:+.0f})"
            for name in ("p50", "p90", "p99")
        ]
        print(f"{use:12}", *quantiles)


if __name__ == "__main__":
    main()
