"""Throughput of `/decrypt` with an opt-out store, compared with that without one."""

import shutil
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pybase64

from benchmarks.material import KeySet, Sample, write_requests
from benchmarks.rounds import interleave, median_ratio
from benchmarks.shots import Aim, Effort, rates, shoot, summarise
from benchmarks.targets import key_server, service
from benchmarks.traffic import make_traffic, traffic_requests
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.optouts.filter_growth import grow_if_needed
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore

IDS = 10_000_000
_QUICK_IDS = 100_000
_IDS_A_STEP = 100_000
_OPTED_OUT_SHARE = 100  # one in so many of the tokens that are sent
_KEY_SET = KeySet(100)
_API_KEY = "enforcement"
_WITHOUT = "without a store"
_GENERATION = struct.Struct("8xq")  # of the store's file `control`; 0 while there is no filter
_FILTER_TIMEOUT_S = 120.0


def measure_enforcement(effort: Effort) -> dict[str, Any]:
    """Return variant -> summary with `rps_to_without`, the median over the rounds of the ratio to no store."""
    count = _QUICK_IDS if effort.only_ends else IDS
    samples = make_traffic(_KEY_SET, effort.samples)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        empty, others, some = (directory / each for each in ("empty", "others", "some"))
        _add(empty, [])
        _add(others, _random_ids(count))
        shutil.copytree(others, some)
        _add(some, [_ids_of(samples[::_OPTED_OUT_SHARE])])
        stores = {
            "an empty store": empty,
            f"{count:,} ids, none of them sent": others,
            f"{count:,} ids, one token in {_OPTED_OUT_SHARE} opted out": some,
        }
        url = stack.enter_context(key_server(directory, {_API_KEY: _KEY_SET}))
        all_good = write_requests(directory / "requests", traffic_requests(samples))
        some_out = write_requests(directory / "some-out", traffic_requests(_opt_out(samples)))

        def aim(requests: Path, store: Path | None = None, without: str = "") -> Aim:
            server = stack.enter_context(service(directory, url, _API_KEY, without=without, optout_store=store))
            return Aim(server, server.tcp, requests)

        aims = {_WITHOUT: aim(all_good)}
        for variant, store in stores.items():
            aims[variant] = aim(some_out if store == some else all_good, store)
        aims["without a store, interpreted"] = aim(all_good, without="kernel")
        aims[f"{count:,} ids, none of them sent, interpreted"] = aim(all_good, others, "kernel")
        are_filtered = {store: _has_filter(store) for store in stores.values()}
        found = interleave({each: partial(shoot, aims[each], effort.seconds) for each in aims}, effort.rounds)
    base = rates(found[_WITHOUT])
    return {
        variant: {
            **summarise(shots),
            "rps_to_without": median_ratio(rates(shots), base),
            "has_filter": are_filtered.get(stores.get(variant, Path()), False),
        }
        for variant, shots in found.items()
    }


def _add(directory: Path, steps: Iterable[list[bytes]]) -> None:
    """Add ids to a store and its filter, which are made if there are none."""
    now_s = int(time.time())
    with OptOutStore(directory) as store:
        for raw_ids in steps:
            store.add([OptOut(IdentityScope.UID2, raw_id, now_s) for raw_id in raw_ids])
        grow_if_needed(store)


def _random_ids(count: int) -> Iterator[list[bytes]]:
    """Yield made-up ids in steps, in order, as a sorted file has them."""
    random = Random(count)
    steps = -(-count // _IDS_A_STEP)
    for step in range(steps):
        prefix = (step * 2**16 // steps).to_bytes(2, "big")
        yield sorted(prefix + random.randbytes(31) for _ in range(min(_IDS_A_STEP, count)))


def _ids_of(samples: Iterable[Sample]) -> list[bytes]:
    return [pybase64.b64decode(sample.raw_uid) for sample in samples if sample.raw_uid is not None]


def _opt_out(samples: list[Sample]) -> list[Sample]:
    """Return the traffic with the verdicts that it gets if some of its people have opted out."""
    return [
        Sample(sample.token, sample.domain, None, None, DecryptionStatus.USER_OPTED_OUT)
        if number % _OPTED_OUT_SHARE == 0 and sample.raw_uid is not None
        else sample
        for number, sample in enumerate(samples)
    ]


def _has_filter(store: Path) -> bool:
    """Wait until the filter in front of a store is in use; False if there is none."""
    deadline_s = time.monotonic() + _FILTER_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with suppress(OSError, struct.error):
            if _GENERATION.unpack_from((store / "control").read_bytes())[0]:
                return True
        if not (store / "control").exists():
            return False
        time.sleep(0.1)
    return False
