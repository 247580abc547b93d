"""Decryption within a process: the service, with its native kernel and without, and the published SDK.

The service goes from the body of a request to the body of the answer, uid2-client only from a token to its raw uid.
Every answer is checked before. The unit is processor time of this process.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Any

from uid2_client import BidstreamClient
from uid2_client.encryption import EncryptionError

from benchmarks.keyserver import CLIENT_SECRET_BASE64
from benchmarks.machine import SERVER_CPU, on_cpu
from benchmarks.material import VERSIONS, KeySet, Sample, make_samples
from benchmarks.rounds import interleave, median_ratio
from benchmarks.traffic import FAILURES, make_failing, make_traffic, spell_bodies, traffic_batches
from bidstream_svc import KeySnapshot, parse_key_response
from bidstream_svc.core.decrypt import bind_decrypt
from bidstream_svc.core.kernel import Kernel, build_in_steps, build_kernel
from bidstream_svc.server.answers import verdict_body
from bidstream_svc.server.handlers import BoundKeys, answer_batch, answer_decrypt

_PASS_NS = 20_000_000  # a shorter pass is repeated, to limit the influence of the clock and of interruptions
_BATCH = 64
_TOKENS = 512
_NAMES = ("kernel", "python", "uid2_client")

Pass = Callable[[], None]


def measure_kernel(rounds: int) -> dict[str, Any]:
    """Measure microseconds per token, medians over the rounds."""
    with on_cpu(SERVER_CPU):
        key_set = KeySet(100)
        response = key_set.response()
        snapshot = parse_key_response(response)
        client = BidstreamClient("", "", CLIENT_SECRET_BASE64)
        client._refresh_json(response)
        good = {version: make_samples(key_set, _TOKENS, version, client_side_every=None) for version in VERSIONS}
        good["v4, domain checked"] = make_samples(key_set, _TOKENS, client_side_every=1)
        good["traffic"] = make_traffic(key_set, _TOKENS)
        failing = {kind: make_failing(key_set, _TOKENS, kind) for kind in FAILURES}
        return {
            "tokens": _measure(_good_passes, good, snapshot, client, rounds),
            "failing": _measure(_failing_passes, failing, snapshot, client, rounds),
            "batch": _measure_batches(traffic_batches(good["traffic"], _BATCH), snapshot, rounds),
            "build": _measure_build(rounds),
        }


def _measure(
    make_passes: Callable[[Sequence[Sample], KeySnapshot, BidstreamClient], tuple[Pass, Pass, Pass]],
    kinds: dict[str, list[Sample]],
    snapshot: KeySnapshot,
    client: BidstreamClient,
    rounds: int,
) -> dict[str, Any]:
    passes = {
        (kind, name): _timed(each)
        for kind, samples in kinds.items()
        for name, each in zip(_NAMES, make_passes(samples, snapshot, client), strict=True)
    }
    timed = interleave(passes, rounds)
    return {
        kind: {name: median(timed[kind, name]) for name in _NAMES}
        | {f"{name} / kernel": median_ratio(timed[kind, name], timed[kind, "kernel"]) for name in _NAMES[1:]}
        for kind in kinds
    }


def _good_passes(samples: Sequence[Sample], snapshot: KeySnapshot, client: BidstreamClient) -> tuple[Pass, Pass, Pass]:
    """The kernel alone, the Python code alone, and uid2-client."""
    kernel, keys, bodies = build_kernel(snapshot), _bind(snapshot), spell_bodies(samples)
    for body, sample in zip(bodies, samples, strict=True):
        _check(answer_decrypt(_bind(snapshot, kernel), body, _now_ms()), (200, sample.answer()))
        _check(answer_decrypt(keys, body, _now_ms()), (200, sample.answer()))
        _check(client.decrypt_token_into_raw_uid(sample.token, sample.domain).uid, sample.raw_uid)
    return partial(_pass_kernel, kernel, bodies), partial(_pass, keys, bodies), partial(_pass_client, client, samples)


def _failing_passes(
    samples: Sequence[Sample], snapshot: KeySnapshot, client: BidstreamClient
) -> tuple[Pass, Pass, Pass]:
    """The kernel and then the Python code, which decides; the Python code alone; and uid2-client."""
    with_kernel, keys, bodies = _bind(snapshot, build_kernel(snapshot)), _bind(snapshot), spell_bodies(samples)
    for body, sample in zip(bodies, samples, strict=True):
        _check(answer_decrypt(with_kernel, body, _now_ms()), (200, sample.answer()))
        _check(answer_decrypt(keys, body, _now_ms()), (200, sample.answer()))
    return partial(_pass, with_kernel, bodies), partial(_pass, keys, bodies), partial(_pass_client, client, samples)


def _measure_batches(batches: Sequence[tuple[bytes, bytes]], snapshot: KeySnapshot, rounds: int) -> dict[str, float]:
    kinds = {"kernel": _bind(snapshot, build_kernel(snapshot)), "python": _bind(snapshot)}
    bodies = [request.partition(b"\r\n\r\n")[2] for request, _ in batches]
    for keys in kinds.values():
        for body, (_, answer) in zip(bodies, batches, strict=True):
            _check(answer_batch(keys, body, _now_ms()), (200, answer))
    timed = interleave({name: _timed(partial(_pass_batch, keys, bodies)) for name, keys in kinds.items()}, rounds)
    return {name: median(times) for name, times in timed.items()}


def _measure_build(rounds: int) -> dict[str, float]:
    """Milliseconds for the largest key response: in all, and the longest step."""
    snapshot = parse_key_response(KeySet(5_000, 60_000).response())
    totals, longest = [], []
    for _ in range(rounds):
        steps = []
        building = build_in_steps(snapshot)
        while True:
            began_ns = time.perf_counter_ns()
            is_done = next(building, building) is building
            steps.append((time.perf_counter_ns() - began_ns) / 1e6)
            if is_done:
                break
        totals.append(sum(steps))
        longest.append(max(steps))
    return {"total_ms": median(totals), "longest_step_ms": median(longest)}


def _bind(snapshot: KeySnapshot, kernel: Kernel | None = None) -> BoundKeys:
    decrypt = bind_decrypt(snapshot)
    return BoundKeys(
        lambda token, domain, _scope, now_ms: verdict_body(decrypt(token, domain, now_ms)),
        () if kernel is None else (kernel,),
    )


def _check(given: object, expected: object) -> None:
    if given != expected:
        raise RuntimeError(f"{given!r} instead of {expected!r}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _timed(one_pass: Pass) -> Callable[[], float]:
    """Return a function that measures microseconds per token, over as many passes as fit in _PASS_NS."""

    def timed() -> float:
        start_ns, passes = time.process_time_ns(), 0
        while (elapsed_ns := time.process_time_ns() - start_ns) < _PASS_NS:
            one_pass()
            passes += 1
        return elapsed_ns / 1e3 / passes / _TOKENS

    return timed


def _pass_kernel(kernel: Kernel, bodies: Sequence[bytes]) -> None:
    answer, now_ms = kernel.answer, _now_ms()
    for body in bodies:
        answer(body, now_ms)


def _pass(keys: BoundKeys, bodies: Sequence[bytes]) -> None:
    now_ms = _now_ms()
    for body in bodies:
        answer_decrypt(keys, body, now_ms)


def _pass_client(client: BidstreamClient, samples: Sequence[Sample]) -> None:
    for sample in samples:
        with suppress(EncryptionError):  # which it raises for some failing tokens
            client.decrypt_token_into_raw_uid(sample.token, sample.domain)


def _pass_batch(keys: BoundKeys, bodies: Sequence[bytes]) -> None:
    now_ms = _now_ms()
    for body in bodies:
        answer_batch(keys, body, now_ms)
