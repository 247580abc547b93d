"""Throughput of the service with the heads of stock HTTP clients, compared with the plain head."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.heads import PLAIN, stock_heads
from benchmarks.material import KeySet, write_requests
from benchmarks.rounds import interleave, median_ratio
from benchmarks.shots import Aim, Effort, rates, shoot, summarise
from benchmarks.targets import key_server, service
from benchmarks.traffic import make_traffic, traffic_requests

_KEY_SET = KeySet(100)
_API_KEY = "heads"
_PLAIN = "plain"


def measure_heads(effort: Effort) -> dict[str, Any]:
    """Return client -> summary with `rps_to_plain`, the median over the rounds of the ratio to the plain head."""
    samples = make_traffic(_KEY_SET, effort.samples)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with key_server(directory, {_API_KEY: _KEY_SET}) as url, service(directory, url, _API_KEY) as server:
            shots = {}
            for client, heads in ({_PLAIN: [PLAIN]} | stock_heads()).items():
                requests = write_requests(directory / client, traffic_requests(samples, heads))
                # Short shots, because the rounds are long, and the plain head is measured only once in each.
                shots[client] = partial(shoot, Aim(server, server.tcp, requests), effort.seconds / 2)
            found = interleave(shots, effort.head_rounds)
    plain = rates(found[_PLAIN])
    return {
        client: {**summarise(each), "rps_to_plain": median_ratio(rates(each), plain)} for client, each in found.items()
    }
