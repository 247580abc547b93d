"""Memory of one process with 5,000 keys and 20,000 site domains: at the start, and after every key has been used."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.load import run_load
from benchmarks.material import KeySet, decrypt_requests, make_samples, write_requests
from benchmarks.targets import fastapi_client, key_server, service

_KEY_SET = KeySet(5_000, 20_000)
_API_KEY = "memory"


def measure_memory(seconds: float) -> dict[str, Any]:
    """Return server -> {"start": {"rss", "pss"}, "used": {"rss", "pss"}}, in MB of 10^6 bytes."""
    result = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        url = stack.enter_context(key_server(directory, {_API_KEY: _KEY_SET}))
        # One token per key; all client-side, so that the names of every site are parsed as well.
        samples = make_samples(_KEY_SET, _KEY_SET.keys - 1, client_side_every=1)
        requests = write_requests(directory / "requests", decrypt_requests(samples))
        for label, start in (("service", service), ("FastAPI + uid2-client", fastapi_client)):
            server = stack.enter_context(start(directory, url, _API_KEY))
            at_start = server.memory_mb()
            run_load(server.tcp, requests, connections=64, seconds=seconds)
            result[label] = {"start": at_start, "used": server.memory_mb()}
    return result
