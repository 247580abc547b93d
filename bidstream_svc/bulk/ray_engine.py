"""The engine of a cluster: Ray Data, with a task for each part. All workers share the storage of input and output."""

import os
import secrets
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.part_work import OnBatch, PartResult
from bidstream_svc.bulk.parts import Part
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.keys import KeySnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterJob:
    """What workers need, besides the parts.

    Attributes:
        output: as for `process_part`, and so are options, `now_ms` and `strict`.
        snapshots: keys of each programme. They are shipped once, as an object of Ray's store.
        optout_store: directory of an opt-out store, or None. Other nodes than this one get a copy.
        withholds: whether no raw uid may be answered while the store is stale.
    """

    output: str
    snapshots: Sequence[KeySnapshot]
    optout_store: Path | None
    withholds: bool
    options: BatchOptions
    now_ms: int
    strict: bool


def load_ray(*, is_local: bool) -> None:
    """Import Ray, before a run begins.

    Args:
        is_local: whether it is to be a Ray of this machine.

    Raises:
        ConfigurationError: it is not installed.
    """
    _prepare_environment(is_local=is_local)
    try:
        from bidstream_svc.bulk import ray_run  # noqa: F401, PLC0415 - Ray reads the environment as it is imported
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"ray", "pandas", "numpy"}:
            raise
        raise ConfigurationError("needs the extra `ray`: pip install 'bidstream-svc[ray]'") from None


def process_parts(
    parts: Sequence[Part], job: ClusterJob, *, address: str | None, on_batch: OnBatch
) -> Generator[PartResult]:
    """Process parts once `load_ray` has been called, and yield what became of each.

    Closing the generator stops the tasks.

    A task whose worker or node is lost is done again by another, which writes the same.

    Args:
        parts: of a run that is open.
        job: shared by all parts.
        address: of a Ray cluster; None for a Ray of this machine, which ends with the generator.
        on_batch: called after each part.

    Raises:
        ConfigurationError: there is no cluster at the address.
        BidstreamError: as for `process_part`; or Ray has failed.
    """
    from bidstream_svc.bulk.ray_run import run_parts  # noqa: PLC0415 - an extra

    if parts:
        yield from run_parts(parts, job, address=address, on_batch=on_batch)


def _prepare_environment(*, is_local: bool) -> None:
    """A Ray of this machine listens on all interfaces, so nobody may use it without this run's token."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if is_local:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    else:
        # An attempt takes 40 s where something else listens, and Ray would make twenty.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
