"""What a snapshot of opt-outs costs a receiver and a host: processor time, and bytes."""

import tempfile
import time
from pathlib import Path

from benchmarks.optouts_store import _TIME_S, blocks_of_ids
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import SnapshotMerger, write_snapshot

_IDS = 1_000_000


def measure_snapshot() -> dict[str, float]:
    """Write a snapshot of a million opt-outs, and merge it into an empty store."""
    with tempfile.TemporaryDirectory() as name:
        with OptOutStore(Path(name) / "receiver") as store:
            for ids in blocks_of_ids(_IDS, is_sorted=True):
                store.add([OptOut(IdentityScope.UID2, each, _TIME_S) for each in ids])
        begun_s, size = time.process_time(), 0
        parts = []
        for part in write_snapshot(Path(name) / "receiver"):
            parts.append(part)
            size += len(part)
        written_s = time.process_time() - begun_s
        with OptOutStore(Path(name) / "host") as store:
            merger, begun_s = SnapshotMerger(store), time.process_time()
            for part in parts:
                merger.feed(part)
            merger.finish()
            merged_s = time.process_time() - begun_s
            assert store.count() == _IDS
    return {
        "ids": _IDS,
        "bytes_per_id": round(size / _IDS, 2),
        "written_ids_per_cpu_s": round(_IDS / written_s),
        "merged_ids_per_cpu_s": round(_IDS / merged_s),
    }
