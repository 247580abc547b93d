"""A run on Ray, once `ray_engine` has let Ray be imported."""

import logging
import pickle
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import ray
import ray.data
import ray.util.client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bidstream_svc.bulk.optout_copy import remove_copy, snapshot_chunks
from bidstream_svc.bulk.part_work import OnBatch, PartResult
from bidstream_svc.bulk.parts import Part, largest_first
from bidstream_svc.bulk.ray_connection import connection
from bidstream_svc.bulk.ray_engine import ClusterJob
from bidstream_svc.bulk.ray_task import RayJob, ShippedOptOuts, decrypt_parts
from bidstream_svc.bulk.shipped_keys import ShippedKeys
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.optouts.optout_environment import open_environment

_MAX_TASKS = 10_000  # for more parts, each processes several
_MAX_BLOCK_BYTES = 2**20  # Ray reserves memory for the results of a task by this; ours are small
_REMOVE_COPY_S = 20.0


def run_parts(
    parts: Sequence[Part], job: ClusterJob, *, address: str | None, on_batch: OnBatch
) -> Generator[PartResult]:
    """Do what `ray_engine.process_parts` says."""
    try:
        with connection(address), _shipped_optouts(job, is_local=address is None) as optouts:
            ray_job = RayJob(
                keys=[ray.put(ShippedKeys(job.snapshots))],
                optouts=optouts,
                output=job.output,
                options=job.options,
                now_ms=job.now_ms,
                strict=job.strict,
            )
            sizes = {part.name: part.size for part in parts}
            for result in _run(parts, ray_job):
                on_batch(result.rows, sizes[result.name])
                yield result
    except ray.exceptions.RayError as error:
        raise BidstreamError(f"Ray has failed ({type(error).__name__}); its logs say why") from error


def _run(parts: Sequence[Part], job: RayJob) -> Iterator[PartResult]:
    rows = [{"part": msgspec.json.encode(part)} for part in largest_first(parts)]
    with _data_context():
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_TASKS))
        outcomes = dataset.map_batches(
            partial(decrypt_parts, job=job), batch_size=1, batch_format="pyarrow", num_cpus=1
        ).iter_rows()
        for row in outcomes:
            outcome: PartResult | BidstreamError = pickle.loads(row["outcome"])  # noqa: S301 - of our own task
            if isinstance(outcome, BidstreamError):
                raise outcome
            yield outcome


@contextmanager
def _data_context() -> Iterator[None]:
    """Settings of Ray Data for this run: nothing on stderr, and room for a task on each core."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = _MAX_BLOCK_BYTES
    with ray.data.DataContext.current(context):
        yield


@contextmanager
def _shipped_optouts(job: ClusterJob, *, is_local: bool) -> Iterator[ShippedOptOuts | None]:
    """The opt-outs for workers; their copies on other nodes are removed in the end."""
    store = job.optout_store
    if store is None:
        yield None
        return
    optouts = ShippedOptOuts(
        store=store.absolute(),
        # A client of Ray is on no node.
        node_id=None if ray.util.client.ray.is_connected() else ray.get_runtime_context().get_node_id(),
        chunks=() if is_local else tuple(map(ray.put, snapshot_chunks(store))),
        withholds=job.withholds,
        copy_withholds=job.withholds and _is_stale(store),
    )
    try:
        yield optouts
    finally:
        if optouts.chunks:
            _remove_copies(optouts.copy_id)


def _is_stale(store: Path) -> bool:
    return wall_clock_ms() > open_environment(store, is_writable=False).control.fresh_until_ms


def _remove_copies(copy_id: str) -> None:
    """Remove the copies of all nodes. Those that are still used are removed by the next run."""
    removing = [
        ray.remote(remove_copy)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(copy_id, _REMOVE_COPY_S)
        for node in ray.nodes()
        if node["Alive"]
    ]
    ray.wait(removing, num_returns=len(removing), timeout=2 * _REMOVE_COPY_S)
