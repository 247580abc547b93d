"""A snapshot is merged in one call."""

from collections.abc import Iterable

from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import SnapshotHeader, SnapshotMerger


def merge_snapshot(store: OptOutStore, parts: Iterable[bytes]) -> SnapshotHeader:
    """Merge all parts, and return the header."""
    merger = SnapshotMerger(store)
    for part in parts:
        merger.feed(part)
    return merger.finish()
