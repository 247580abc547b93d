"""In-process decryption: compared with the published SDK, and with many keys and sites.

Both read the clock for every token, as in real use. Every result is checked before the measurement.
"""

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from uid2_client import BidstreamClient

from benchmarks.keyserver import CLIENT_SECRET_BASE64
from benchmarks.machine import SERVER_CPU, on_cpu
from benchmarks.material import VERSIONS, KeySet, Sample, make_samples
from benchmarks.rounds import interleave, median_ratio
from bidstream_svc import DecryptionStatus, KeySnapshot, decrypt, parse_key_response

_PASS_NS = 20_000_000  # a shorter pass is repeated, to limit the influence of the clock and of interruptions
_KEYS = (10, 100, 1_000, 10_000, 50_000)
_DOMAINS = (100, 1_000, 20_000, 60_000)


def measure_core(rounds: int, count: int) -> dict[str, Any]:
    """Measure microseconds per token, medians over the rounds, with `count` distinct tokens of each kind."""
    with on_cpu(SERVER_CPU):
        return {
            "decrypt": _compare(rounds, count),
            "by_keys": _sweep({n: KeySet(n) for n in _KEYS}, rounds, count, client_side_every=None),
            "by_domains": _sweep({n: KeySet(1_000, n) for n in _DOMAINS}, rounds, count, client_side_every=1),
        }


def _compare(rounds: int, count: int) -> dict[str, Any]:
    key_set = KeySet(100)
    response = key_set.response()
    snapshot = parse_key_response(response)
    client = BidstreamClient("", "", CLIENT_SECRET_BASE64)
    client._refresh_json(response)
    kinds = {version: make_samples(key_set, count, version, client_side_every=None) for version in VERSIONS}
    kinds["v4, domain checked"] = make_samples(key_set, count, client_side_every=1)
    passes: dict[str, Callable[[], float]] = {}
    for kind, samples in kinds.items():
        _check_ours(samples, snapshot)
        _check_theirs(samples, client)
        passes[f"{kind} ours"] = _repeated(partial(_pass_ours, samples, snapshot), count)
        passes[f"{kind} theirs"] = _repeated(partial(_pass_theirs, samples, client), count)
    timed = _interleave_undisturbed(passes, rounds)
    return {
        kind: {
            "ours_us": median(timed[f"{kind} ours"]),
            "uid2_client_us": median(timed[f"{kind} theirs"]),
            "ratio": median_ratio(timed[f"{kind} theirs"], timed[f"{kind} ours"]),
        }
        for kind in kinds
    }


def _sweep(key_sets: dict[int, KeySet], rounds: int, count: int, client_side_every: int | None) -> dict[str, Any]:
    passes = {}
    for size, key_set in key_sets.items():
        samples = make_samples(key_set, count, client_side_every=client_side_every)
        snapshot = parse_key_response(key_set.response())
        _check_ours(samples, snapshot)  # also creates the ciphers and parses the names that the tokens need
        passes[size] = _repeated(partial(_pass_ours, samples, snapshot), count)
    timed = _interleave_undisturbed({str(size): one_pass for size, one_pass in passes.items()}, rounds)
    first = timed[str(next(iter(passes)))]
    return {
        size: {"ours_us": median(times), "cost_to_first": median_ratio(times, first)} for size, times in timed.items()
    }


def _interleave_undisturbed(passes: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    gc.collect()
    gc.freeze()  # excludes the material from garbage collections during the measurement
    try:
        return interleave(passes, rounds)
    finally:
        gc.unfreeze()


def _repeated(one_pass: Callable[[], None], count: int) -> Callable[[], float]:
    """Return a function that measures microseconds per token, over as many passes as fit in _PASS_NS."""

    def timed() -> float:
        start_ns, passes = time.perf_counter_ns(), 0
        while (elapsed_ns := time.perf_counter_ns() - start_ns) < _PASS_NS or not passes:
            one_pass()
            passes += 1
        return elapsed_ns / 1e3 / passes / count

    return timed


def _pass_ours(samples: Sequence[Sample], snapshot: KeySnapshot) -> None:
    for sample in samples:
        decrypt(sample.token, sample.domain, snapshot, time.time_ns() // 1_000_000)


def _pass_theirs(samples: Sequence[Sample], client: BidstreamClient) -> None:
    for sample in samples:
        client.decrypt_token_into_raw_uid(sample.token, sample.domain)


def _check_ours(samples: Sequence[Sample], snapshot: KeySnapshot) -> None:
    for sample in samples:
        verdict = decrypt(sample.token, sample.domain, snapshot, time.time_ns() // 1_000_000)
        expected = (DecryptionStatus.SUCCESS, sample.raw_uid, sample.established_ms, None)
        if verdict != expected:
            raise RuntimeError(f"ours: {verdict!r} instead of {expected!r}")


def _check_theirs(samples: Sequence[Sample], client: BidstreamClient) -> None:
    for sample in samples:
        result = client.decrypt_token_into_raw_uid(sample.token, sample.domain)
        if not result.success or result.uid != sample.raw_uid:
            raise RuntimeError(f"uid2-client: {result.status} for {sample!r}")
        if round(result.established.timestamp() * 1000) != sample.established_ms:
            raise RuntimeError(f"uid2-client: another time for {sample!r}")
