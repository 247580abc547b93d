"""The native kernel, compared with the Python code that it stands before, and with the published SDK.

`python -m benchmarks.kernel` measures from the body of a request to the body of the answer, in processor time of this
process. Every answer is checked before. What "Python" is depends on how the package is installed; see `describe`.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from uid2_client import BidstreamClient

from benchmarks.keyserver import CLIENT_SECRET_BASE64
from benchmarks.machine import SERVER_CPU, describe, on_cpu
from benchmarks.material import VERSIONS, KeySet, Sample, batch_requests, decrypt_requests, make_samples
from benchmarks.rounds import interleave, median_ratio
from bidstream_svc import parse_key_response
from bidstream_svc.core.decrypt import bind_decrypt
from bidstream_svc.core.kernel import Kernel, build_in_steps, build_kernel
from bidstream_svc.server.answers import verdict_body
from bidstream_svc.server.handlers import BoundKeys, answer_batch, answer_decrypt

_PASS_NS = 20_000_000
_BATCH = 64
_TOKENS = 512


def measure_kernel(rounds: int) -> dict[str, Any]:
    """Measure microseconds per token, medians over the rounds."""
    with on_cpu(SERVER_CPU):
        return {"tokens": _measure_tokens(rounds), "build": _measure_build(rounds)}


def _measure_tokens(rounds: int) -> dict[str, Any]:
    key_set = KeySet(100)
    response = key_set.response()
    snapshot = parse_key_response(response)
    kernel, decrypt = build_kernel(snapshot), bind_decrypt(snapshot)
    client = BidstreamClient("", "", CLIENT_SECRET_BASE64)
    client._refresh_json(response)

    keys = BoundKeys(lambda token, domain, _scope, now_ms: verdict_body(decrypt(token, domain, now_ms)))

    kinds = {version: make_samples(key_set, _TOKENS, version, client_side_every=None) for version in VERSIONS}
    kinds["v4, domain checked"] = make_samples(key_set, _TOKENS, client_side_every=1)
    passes: dict[str, Callable[[], float]] = {}
    for kind, samples in kinds.items():
        bodies, expected = _bodies(decrypt_requests(samples))
        batches, expected_of_batches = _bodies(batch_requests(samples, _BATCH))
        for body, answer in zip(bodies, expected, strict=True):
            _check(kernel.answer(body, _now_ms()), answer)
            _check(answer_decrypt(keys, body, _now_ms()), (200, answer))
        for body, answer in zip(batches, expected_of_batches, strict=True):
            _check(kernel.answer_batch(body, _now_ms()), (answer, _BATCH, []))
        passes |= {
            f"{kind} kernel": _timed(partial(_pass_kernel, kernel, bodies)),
            f"{kind} python": _timed(partial(_pass_python, keys, bodies)),
            f"{kind} uid2_client": _timed(partial(_pass_client, client, samples)),
            f"{kind} kernel, batch": _timed(partial(_pass_kernel_batch, kernel, batches)),
            f"{kind} python, batch": _timed(partial(_pass_python_batch, keys, batches)),
        }
    timed = interleave(passes, rounds)
    return {
        kind: {name: median(timed[f"{kind} {name}"]) for name in ("kernel", "python", "uid2_client")}
        | {f"{name}, batch of {_BATCH}": median(timed[f"{kind} {name}, batch"]) for name in ("kernel", "python")}
        | {
            f"{name} / kernel": median_ratio(timed[f"{kind} {name}"], timed[f"{kind} kernel"])
            for name in ("python", "uid2_client")
        }
        for kind in kinds
    }


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


def _bodies(requests: Sequence[tuple[bytes, bytes]]) -> tuple[list[bytes], list[bytes]]:
    return [request.partition(b"\r\n\r\n")[2] for request, _ in requests], [answer for _, answer in requests]


def _check(given: object, expected: object) -> None:
    if given != expected:
        raise RuntimeError(f"{given!r} instead of {expected!r}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _timed(one_pass: Callable[[], None]) -> Callable[[], float]:
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


def _pass_python(keys: BoundKeys, bodies: Sequence[bytes]) -> None:
    now_ms = _now_ms()
    for body in bodies:
        answer_decrypt(keys, body, now_ms)


def _pass_client(client: BidstreamClient, samples: Sequence[Sample]) -> None:
    for sample in samples:
        client.decrypt_token_into_raw_uid(sample.token, sample.domain)


def _pass_kernel_batch(kernel: Kernel, batches: Sequence[bytes]) -> None:
    now_ms = _now_ms()
    for body in batches:
        kernel.answer_batch(body, now_ms)


def _pass_python_batch(keys: BoundKeys, batches: Sequence[bytes]) -> None:
    now_ms = _now_ms()
    for body in batches:
        answer_batch(keys, body, now_ms)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    results = {"machine": describe(), **measure_kernel(parser.parse_args().rounds)}
    print(json.dumps(results, indent=1, default=lambda number: round(number, 3)))
