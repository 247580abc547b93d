"""Whole bid requests: the service over HTTP, and within a process against what a bidder writes in Python without it."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from uid2_client import BidstreamClient

from benchmarks.bid_requests import SIZES, BidSample, make_bid_requests
from benchmarks.heads import PLAIN, with_body
from benchmarks.keyserver import CLIENT_SECRET_BASE64
from benchmarks.material import KeySet, write_requests
from benchmarks.rounds import interleave, median_ratio
from benchmarks.shots import Aim, Effort, Shot, rates, shoot, summarise
from benchmarks.targets import key_server, service
from benchmarks.targets.process import Server
from benchmarks.traffic import make_traffic, traffic_requests
from bidstream_svc import parse_key_response
from bidstream_svc.core.decrypt import bind_decrypt
from bidstream_svc.core.kernel import build_bid_requests, build_kernel
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.openrtb import SOURCES, BidRequestDecryptor, ask_kernel_first, finish_if_steps

_KEY_SET = KeySet(100)
_API_KEY = "openrtb"
_UIDS = (1, 2, 5, 20)
_SIZE_OF_UIDS = 10_000  # so that 20 of them fit
_DECRYPT = "/decrypt"
_PASS_NS = 50_000_000
_IN_PROCESS = 211  # bid requests

Pass = Callable[[BidSample], object]


def measure_openrtb(effort: Effort) -> dict[str, Any]:
    """Measure requests of every size and with several uids; each relative to `/decrypt` in the same round."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        url = key_server(directory, {_API_KEY: _KEY_SET})
        with url as key_url, service(directory, key_url, _API_KEY) as server:
            aims = _aims(directory, server, effort)
            shots = interleave({name: partial(shoot, aim, effort.seconds) for name, aim in aims.items()}, effort.rounds)
    decrypt_rates = rates(shots[_DECRYPT])
    return {
        "http": {name: _row(each, decrypt_rates) for name, each in shots.items()},
        "in_process": {size: _measure_in_process(SIZES[size], effort.rounds) for size in SIZES},
    }


def _row(shots: Sequence[Shot], decrypt_rates: Sequence[float]) -> dict[str, Any]:
    return {**summarise(shots), "rps_to_decrypt": median_ratio(rates(shots), decrypt_rates)}


def _aims(directory: Path, server: Server, effort: Effort) -> dict[str, Aim]:
    """`/decrypt`, and both routes with every size and every number of uids."""
    single = write_requests(directory / "single", traffic_requests(make_traffic(_KEY_SET, effort.samples)))
    aims = {_DECRYPT: Aim(server, server.tcp, single)}
    kinds = {name: (size, 1) for name, size in effort.some(SIZES).items()}
    kinds |= {"3.3 KB": (SIZES["3.3 KB"], 1)}  # of the goal
    kinds |= {f"{number} uids": (_SIZE_OF_UIDS, number) for number in effort.some({str(n): n for n in _UIDS}).values()}
    for number, (name, (size, uids)) in enumerate(kinds.items()):
        samples = make_bid_requests(_KEY_SET, effort.samples // 4 | 1, size, uids)
        for path, answer_of in _ANSWERS.items():
            requests = [(with_body(PLAIN, each.body, path.encode()), answer_of(each)) for each in samples]
            file = write_requests(directory / f"bid-{number}{path.replace('/', '-')}", requests)
            aims[f"{path}, {name}"] = Aim(server, server.tcp, file)
    return aims


_ANSWERS: Mapping[str, Callable[[BidSample], bytes]] = {
    "/openrtb": lambda sample: sample.answer,
    "/openrtb/rewrite": lambda sample: sample.rewritten,
}


# ---- within a process ----


def _measure_in_process(size: int, rounds: int) -> dict[str, float]:
    """Microseconds of processor time a bid request. Answers are compared before anything is timed."""
    response = _KEY_SET.response()
    samples = make_bid_requests(_KEY_SET, _IN_PROCESS, size)
    client = BidstreamClient("", "", CLIENT_SECRET_BASE64)
    client._refresh_json(response)
    passes = _passes(parse_key_response(response), client, samples)
    return {name: median(times) for name, times in interleave(passes, rounds).items()}


def _passes(
    snapshot: KeySnapshot, client: BidstreamClient, samples: Sequence[BidSample]
) -> dict[str, Callable[[], float]]:
    kernel = build_kernel(snapshot)
    asking = {snapshot.scope: ask_kernel_first(kernel, bind_decrypt(snapshot))}
    ours = {
        "find": BidRequestDecryptor(asking, SOURCES, build_bid_requests([kernel], SOURCES)),
        "find, tokens by the kernel": BidRequestDecryptor(asking),
        "find, without the kernel": BidRequestDecryptor({snapshot.scope: bind_decrypt(snapshot)}),
    }
    passes: dict[str, Pass] = {}
    for name, decryptor in ours.items():
        passes[name] = partial(_find, decryptor)
        passes[name.replace("find", "rewrite")] = partial(_rewrite, decryptor)
    for sample in samples:
        for name, one in passes.items():
            _check(one(sample), sample.answer if name.startswith("find") else sample.rewritten)
    decrypt = bind_decrypt(snapshot)
    passes["orjson and decrypt"] = partial(
        _by_hand, orjson.loads, lambda token, domain: decrypt(token, domain, _now_ms())[1]
    )
    passes["json and uid2-client"] = partial(
        _by_hand, json.loads, lambda token, domain: client.decrypt_token_into_raw_uid(token, domain).uid
    )
    for name in ("orjson and decrypt", "json and uid2-client"):
        for sample in samples:
            _check(passes[name](sample), [each.raw_uid for each in sample.ours])
    return {name: partial(_timed, one, samples) for name, one in passes.items()}


def _find(decryptor: BidRequestDecryptor, sample: BidSample) -> bytes:
    return finish_if_steps(decryptor.answer(sample.body, _now_ms()))[0]


def _rewrite(decryptor: BidRequestDecryptor, sample: BidSample) -> bytes:
    return finish_if_steps(decryptor.rewrite(sample.body, _now_ms()))[0]


def _by_hand(
    loads: Callable[[bytes], Any], decrypt: Callable[[str, str | None], str | None], sample: BidSample
) -> list[str | None]:
    """Decode everything and walk through it, without the checks of what is malformed."""
    request = loads(sample.body)
    if "openrtb" in request:
        request = request["openrtb"]["request"]["context"]
    site, app, user = request.get("site", {}), request.get("app", {}), request.get("user", {})
    domain = site.get("domain") or site.get("page", "").partition("//")[2].partition("/")[0] or app.get("bundle")
    return [
        decrypt(uid["id"], domain)
        for eids in (user.get("eids", []), user.get("ext", {}).get("eids", []))
        for eid in eids
        if eid.get("source") == "uidapi.com"
        for uid in eid["uids"]
    ]


def _timed(one: Pass, samples: Sequence[BidSample]) -> float:
    start_ns, passes = time.process_time_ns(), 0
    while (elapsed_ns := time.process_time_ns() - start_ns) < _PASS_NS:
        for sample in samples:
            one(sample)
        passes += 1
    return elapsed_ns / 1e3 / passes / len(samples)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _check(given: object, expected: object) -> None:
    if given != expected:
        raise RuntimeError("a wrong answer to a bid request")
