"""Builds the filter of an opt-out store anew: because it is full, or because there is none that can be used.

While the store is written to, a new filter is created and published, within a write transaction; from then on every
writer adds to both. Then all ids that the store has are added to it, in chunks. An id is either among them, or was
written by one who has added it. Then, within a write transaction, the new filter takes the place of the old one.
One process at a time builds; the lock of one that dies is released.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Protocol

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.optouts.control_words import ControlWords
from bidstream_svc.optouts.filter_writer import FilterWriter, MappedFilter


class FilteredStore(Protocol):
    """What is needed of a store."""

    directory: Path
    store_id: bytes
    control: ControlWords
    filter: FilterWriter

    def count(self) -> int:
        """Return the number of ids."""

    def filter_ids(self) -> Iterator[list[bytes]]:
        """Yield all ids that were committed before, each the byte of the programme and the raw id, in chunks.

        What is committed meanwhile may be among them. No transaction is open between two chunks.
        """

    def filter_transaction(self) -> AbstractContextManager[int]:
        """Begin a write transaction that changes nothing; its number. Whatever is raised in it is wrapped."""


def needs_growth(store: FilteredStore) -> bool:
    """Whether a filter is missing, full, or half built by a process that has perhaps died. Cheap."""
    return store.filter.is_native and (bool(store.control.growing) or store.count() >= store.filter.capacity)


def grow_if_needed(store: FilteredStore, should_stop: Callable[[], bool] = lambda: False) -> bool:
    """Build a filter if one is needed and no other process does; takes about a second for two million ids.

    Args:
        store: may be written to meanwhile, by this process and others.
        should_stop: asked between chunks.

    Returns:
        Whether a new filter is in use.

    Raises:
        OptOutStoreError: the disk is full, or the store is damaged.
    """
    if not needs_growth(store):
        return False
    with _lock_of_builders(store.directory) as is_alone:
        return is_alone and _grow(store, should_stop)


def _grow(store: FilteredStore, should_stop: Callable[[], bool]) -> bool:
    count = store.count()
    with store.filter_transaction() as transaction:
        generation = store.filter.begin_growth(transaction, count)
    if generation is None:
        return False
    is_filled = False
    try:
        is_filled = _fill(store, generation, should_stop)
    finally:
        if not is_filled:
            with store.filter_transaction() as transaction:
                store.filter.cancel_growth(transaction, generation)
    if is_filled:
        with store.filter_transaction() as transaction:
            return store.filter.finish_growth(transaction, generation)
    return False


def _fill(store: FilteredStore, generation: int, should_stop: Callable[[], bool]) -> bool:
    """Add all ids of the store to a filter; False if it has to end before."""
    growing = MappedFilter.open(store.directory, generation, store.store_id, store.control)
    try:
        for ids in store.filter_ids():
            growing.native.add(ids)
            if should_stop() or store.control.growing != generation:
                return False
        return True
    finally:
        growing.close()


@contextmanager
def _lock_of_builders(directory: Path) -> Iterator[bool]:
    """Try to take the lock; yields whether it is ours."""
    try:
        descriptor = os.open(directory / "grow.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OptOutStoreError(f"opt-out store {directory}: grow.lock: {error.strerror}") from None
    try:
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
