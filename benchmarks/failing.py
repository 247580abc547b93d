"""Cost of counting failing tokens by site: the service with the sample, compared with that without it."""

import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import SERVER_CPU, on_cpu
from benchmarks.material import KeySet, Mint, write_requests
from benchmarks.rounds import interleave, median_ratio
from benchmarks.shots import Aim, Effort, Shot, rates, shoot, summarise
from benchmarks.targets import key_server, service
from benchmarks.traffic import FAILURES, make_failing, make_traffic, spell_bodies, traffic_requests
from bidstream_svc import parse_key_response
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import build_kernel
from bidstream_svc.core.status import FailureReason
from bidstream_svc.keystore.store import KeysInUse, KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.failure_sample import SAMPLE_SIZE, FailureSample
from bidstream_svc.server.failure_recorder import FailureRecorder
from bidstream_svc.server.handlers import BoundKeys, TokenDecryptor, answer_decrypt

_KEY_SET = KeySet(100)
_API_KEY = "failing"
_TOKENS = 512
_PASSES = 10  # of _TOKENS: as many failures as half a second has, which is a period of the sample
_PERIODS = 200
_WITH, _WITHOUT = "with the sample", "without"
_KINDS = {"all tokens fail": 100, "no token fails": 0}  # percent


def measure_failing(effort: Effort) -> dict[str, Any]:
    """Return the throughput with and without the sample, microseconds per token within a process, and of recording."""
    return {"http": _measure_http(effort), **_measure_process(effort.rounds)}


def _measure_http(effort: Effort) -> dict[str, Any]:
    """Return kind -> summaries, with ratios of throughput and of processor time, medians over pairs."""
    samples = {kind: make_traffic(_KEY_SET, effort.samples, failing_share=share) for kind, share in _KINDS.items()}
    with TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        url = stack.enter_context(key_server(directory, {_API_KEY: _KEY_SET}))
        servers = {
            _WITH: stack.enter_context(service(directory, url, _API_KEY)),
            _WITHOUT: stack.enter_context(service(directory, url, _API_KEY, without="failure sample")),
        }
        aims = {
            (kind, variant): Aim(server, server.tcp, write_requests(directory / kind, traffic_requests(samples[kind])))
            for kind in _KINDS
            for variant, server in servers.items()
        }
        # Twice as many rounds as elsewhere, because the difference is small.
        found = interleave({each: partial(shoot, aims[each], effort.seconds) for each in aims}, 2 * effort.rounds)
    return {
        kind: {
            **{variant: summarise(found[kind, variant]) for variant in (_WITH, _WITHOUT)},
            "rps_to_without": median_ratio(rates(found[kind, _WITH]), rates(found[kind, _WITHOUT])),
            "cpu_to_without": _cpu_s(found[kind, _WITH]) / _cpu_s(found[kind, _WITHOUT]),
        }
        for kind in _KINDS
    }


def _cpu_s(shots: Sequence[Shot]) -> float:
    """Return seconds of processor time per request, over all rounds."""
    return sum(shot.user_s + shot.system_s for shot in shots) / sum(shot.load.checked for shot in shots)


def _measure_process(rounds: int) -> dict[str, Any]:
    with on_cpu(SERVER_CPU):
        snapshot = parse_key_response(_KEY_SET.response())
        keys = KeysInUse(snapshot, build_kernel(snapshot))
        passes: dict[tuple[str, str], Callable[[], float]] = {}
        for kind in FAILURES:
            bodies = spell_bodies(make_failing(_KEY_SET, _TOKENS, kind))
            for variant, sample in ((_WITH, FailureSample()), (_WITHOUT, None)):
                passes[kind, variant] = partial(_time_period, _bind(keys, sample), bodies, sample)
        timed = interleave(passes, 2 * rounds)
        return {
            "process": {
                kind: {
                    **{variant: median(timed[kind, variant]) for variant in (_WITH, _WITHOUT)},
                    "to_without": median_ratio(timed[kind, _WITH], timed[kind, _WITHOUT]),
                }
                for kind in FAILURES
            },
            "recording": {
                "expired tokens": _time_recording(keys, is_hostile=False),
                "made-up sites, and names that are slow to normalise": _time_recording(keys, is_hostile=True),
            },
        }


def _bind(keys: KeysInUse, sample: FailureSample | None) -> BoundKeys:
    stores = KeyStores([KeyStore(keys)])
    return TokenDecryptor(stores, MetricCells(), on_unknown_key=lambda *_: None, sample=sample).bind()


def _time_period(keys: BoundKeys, bodies: Sequence[bytes], sample: FailureSample | None) -> float:
    """Return microseconds of processor time per token, from body to answer."""
    start_ns, now_ms = time.process_time_ns(), time.time_ns() // 1_000_000
    for _ in range(_PASSES):
        for body in bodies:
            answer_decrypt(keys, body, now_ms)
    elapsed_ns = time.process_time_ns() - start_ns
    if sample is not None and sample.take().failures != _PASSES * _TOKENS:
        raise RuntimeError("a token did not fail")
    return elapsed_ns / 1e3 / _PASSES / _TOKENS


def _time_recording(keys: KeysInUse, *, is_hostile: bool) -> dict[str, float]:
    """Return microseconds for recording a period: the median, and that of the longest step.

    A hostile sample has expired tokens of version 2 for made-up sites, with names that are slow to normalise.
    """
    random, mint = Random(1), Mint(_KEY_SET, SAMPLE_SIZE)
    recorder = FailureRecorder(KeyStores([KeyStore(keys)]), MetricCells().failures.row)
    totals, longest = [], []
    for _ in range(_PERIODS):
        for number in range(SAMPLE_SIZE):
            content = replace(mint.content(number, is_client_side=False), expires_ms=0)
            if is_hostile:
                content = replace(content, site_id=random.getrandbits(32))
            token = mint.token(number, "v2" if is_hostile else "v4", content)
            name = f"{random.getrandbits(32):x}." + ("İ" * 200 if is_hostile else _KEY_SET.domain(number))
            recorder.sample.note(FailureReason.EXPIRED, IdentityScope.UID2, token, name)
        steps = _time_steps(recorder.record())
        totals.append(sum(steps))
        longest.append(max(steps))
    return {"total_us": median(totals), "longest_step_us": median(longest)}


def _time_steps(steps: Coroutine[Any, Any, None]) -> list[float]:
    """Run what a coroutine does between its pauses, and return the microseconds of each part."""
    times: list[float] = []
    while True:
        began_ns = time.perf_counter_ns()
        try:
            steps.send(None)
        except StopIteration:
            return times
        finally:
            times.append((time.perf_counter_ns() - began_ns) / 1e3)
