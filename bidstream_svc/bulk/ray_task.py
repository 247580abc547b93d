"""What a Ray worker does: parts, with keys and opt-outs that are opened once a process."""

import pickle
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import ray

from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.optout_copy import copy_in_use
from bidstream_svc.bulk.part_work import PartResult, process_part
from bidstream_svc.bulk.parts import Part
from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.optouts.optout_reader import OptOutReader


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedOptOuts:
    """Where workers find the opt-outs.

    Attributes:
        copy_id: names the copies of this run.
        store: the store's directory, for workers of its node.
        node_id: of that node; None if no worker may be there.
        chunks: references to the snapshot, for all other nodes.
        withholds: whether no raw uid may be answered while the store is stale.
        copy_withholds: whether none may be answered by a copy, because the store was stale.
    """

    copy_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    store: Path
    node_id: str | None
    chunks: tuple[Any, ...]
    withholds: bool
    copy_withholds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """What tasks need, besides the part. Ray shows it; it contains no keys, but a reference to them.

    Attributes:
        keys: reference to ShippedKeys, in a list, so that Ray does not fetch them for the argument.
        optouts: None without a store.
        output, options, now_ms, strict: as for `process_part`.
    """

    keys: list[Any]
    optouts: ShippedOptOuts | None
    output: str
    options: BatchOptions
    now_ms: int
    strict: bool


def decrypt_parts(table: pa.Table, *, job: RayJob) -> pa.Table:
    """Process the parts of a block: JSON in the column `part`, pickled results or errors in `outcome`."""
    encoded = table.column("part").to_pylist()
    outcomes = [_process(msgspec.json.decode(each, type=Part), job) for each in encoded]
    return pa.table({"part": encoded, "outcome": list(map(pickle.dumps, outcomes))})


# By the reference to the keys. A worker process serves one driver.
_opened: dict[Any, BatchKeys] = {}


def _process(part: Part, job: RayJob) -> PartResult | BidstreamError:
    """Return errors instead of raising them: Ray would hide them in its own."""
    try:
        with _store_of(job) as store:
            keys = _opened.get(job.keys[0])
            if keys is None:
                keys = _opened[job.keys[0]] = BatchKeys(ray.get(job.keys[0]).snapshots, _open_store(store, job))
            return process_part(part, job.output, keys, job.options, job.now_ms, strict=job.strict)
    except BidstreamError as error:
        return error


@contextmanager
def _store_of(job: RayJob) -> Iterator[Path | None]:
    """The store of this node, for as long as a part needs it."""
    if job.optouts is None:
        yield None
    elif _is_local(job.optouts):
        yield job.optouts.store
    else:
        with copy_in_use(job.optouts.copy_id, map(ray.get, job.optouts.chunks)) as store:
            yield store


def _open_store(store: Path | None, job: RayJob) -> OptOutReader | None:
    optouts = job.optouts
    if store is None or optouts is None:
        return None
    return OptOutReader(store, withholds=optouts.withholds if _is_local(optouts) else optouts.copy_withholds)


def _is_local(optouts: ShippedOptOuts) -> bool:
    return bool(optouts.node_id == ray.get_runtime_context().get_node_id())
