"""The filters of an opt-out store, as a process that writes to the store has them.

Any number of processes may write. Each does so within a write transaction of the store, of which there is one at a
time, and adds ids to the filter in use and to the one that is being built, before it commits. A process that cannot,
puts the filter out of use; LMDB answers alone then, until another filter is built (`filter_growth`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.optouts.control_words import NO_GENERATION, ControlWords
from bidstream_svc.optouts.filter_file import FilterFile, filter_generations, filter_path, new_identity
from bidstream_svc.optouts.optout_log import get_logger

if IS_NATIVE or TYPE_CHECKING:
    from bidstream_svc.core.kernel import OptOutFilter

MIN_CAPACITY = 1_000_000  # 2.5 MB
_log = get_logger(__name__)


class MappedFilter(NamedTuple):
    """A filter file, and the native filter that adds to it."""

    file: FilterFile
    native: "OptOutFilter"

    @classmethod
    def open(cls, directory: Path, generation: int, store_id: bytes, control: ControlWords) -> "MappedFilter":
        """Map the filter of a generation.

        Raises:
            OptOutStoreError: it is damaged, of another version or store.
            OSError: it is missing, or cannot be read.
        """
        file = FilterFile.open(directory, generation, store_id)
        native = OptOutFilter(control.words, withholds=False)
        native.map(file.words, file.identity.key, generation)
        return cls(file, native)

    def close(self) -> None:
        """Unmap it."""
        self.native.unmap()
        self.file.close()


class FilterWriter:
    """Adds the ids of a store to its filters. Everything is called within a write transaction of the store.

    Args:
        directory: the store.
        store_id: its id.
        control: its control words.
        last_transaction: the last one that was committed.
        is_native: False where there is no kernel; there is no filter then.
    """

    def __init__(
        self,
        directory: Path,
        store_id: bytes,
        control: ControlWords,
        last_transaction: int,
        *,
        is_native: bool = IS_NATIVE,
    ) -> None:
        self._directory, self._store_id, self._control = directory, store_id, control
        self._is_native = is_native
        self._mapped: dict[int, MappedFilter] = {}
        self._follow(last_transaction)
        for mapped in self._mapped.values():
            mapped.file.adopt(last_transaction)

    @property
    def is_native(self) -> bool:
        """Whether there can be a filter."""
        return self._is_native

    @property
    def capacity(self) -> int:
        """For how many ids the filter in use has room; 0 without one. It is kept between transactions."""
        in_use = self._mapped.get(self._control.generation)
        return 0 if in_use is None else in_use.file.identity.capacity

    def begin(self, transaction: int) -> None:
        """Note a write transaction: every one, after it has begun.

        Args:
            transaction: its number; they ascend.
        """
        self._follow(transaction - 1)
        self._note(transaction)

    def add(self, scope: IdentityScope, pairs: bytes, pair_bytes: int) -> None:
        """Add the ids of pairs (`optout_tables`) of a programme that the transaction adds, before it commits."""
        for mapped in self._mapped.values():
            mapped.native.add_pairs(scope, pairs, pair_bytes)

    def begin_growth(self, transaction: int, count: int) -> int | None:
        """Create a larger filter, to which every writer adds from now on. Only for whoever holds the lock of builders.

        Args:
            transaction: the number of the write transaction, which changes nothing in the store.
            count: how many ids the store has.

        Returns:
            The generation of the new filter, or None if none is needed.

        Raises:
            OSError: there is no room for it.
        """
        control = self._control
        control.growing = NO_GENERATION  # of a builder that has died
        self._change(transaction)
        if not self._is_native or count < self.capacity:
            return None
        generation = max(control.newest, control.generation, *filter_generations(self._directory)) + 1
        control.newest = generation
        identity = new_identity(generation, max(MIN_CAPACITY, 2 * count), self._store_id)
        FilterFile.create(self._directory, identity, transaction - 1).close()
        control.growing = generation
        self._change(transaction)
        return generation

    def finish_growth(self, transaction: int, generation: int) -> bool:
        """Use a new filter, to which all ids have been added; False if it was put out of use meanwhile."""
        control = self._control
        self._follow(transaction - 1)
        is_good = control.growing == generation
        if is_good:
            control.generation = generation
            control.growing = NO_GENERATION
        self._change(transaction)
        return is_good

    def cancel_growth(self, transaction: int, generation: int) -> None:
        """Give up a new filter."""
        if self._control.growing == generation:
            self._control.growing = NO_GENERATION
        self._change(transaction)

    def close(self, last_transaction: int) -> None:
        """Write the filter in use to the disk, so that it can be used after another boot, and unmap all.

        Args:
            last_transaction: the last one that was committed.
        """
        self._follow(last_transaction)
        try:
            in_use = self._mapped.get(self._control.generation)
            if in_use is not None:
                in_use.file.sync(last_transaction)
        except OSError as error:
            _log.warning("opt-out filter not synced", error=error.strerror)
        for mapped in self._mapped.values():
            mapped.close()
        self._mapped.clear()

    def _note(self, transaction: int) -> None:
        for mapped in self._mapped.values():
            mapped.file.note(transaction)

    def _change(self, transaction: int) -> None:
        """Map what is in use now, and remove the files of others."""
        self._follow(transaction - 1)
        self._note(transaction - 1)  # LMDB uses the number of a transaction that changes nothing again
        for generation in filter_generations(self._directory):
            if generation not in self._mapped:
                filter_path(self._directory, generation).unlink(missing_ok=True)

    def _follow(self, last_transaction: int) -> None:
        """Map what the control words say, and nothing else, and only what has noted every earlier transaction."""
        control = self._control
        if not self._is_native:
            control.generation = control.growing = NO_GENERATION
        wanted = {control.generation, control.growing} - {NO_GENERATION}
        for generation in self._mapped.keys() - wanted:
            self._mapped.pop(generation).close()
        for generation in wanted:
            try:
                self._require(generation, last_transaction)
            except (OSError, OptOutStoreError) as error:
                self._abandon(generation, str(error.strerror if isinstance(error, OSError) else error))

    def _require(self, generation: int, last_transaction: int) -> None:
        """Map a filter, unless it is mapped. OptOutStoreError or OSError if it cannot be used."""
        if generation not in self._mapped:
            self._mapped[generation] = MappedFilter.open(self._directory, generation, self._store_id, self._control)
        if not self._mapped[generation].file.is_complete(last_transaction):
            raise OptOutStoreError("it may lack ids")

    def _abandon(self, generation: int, reason: str) -> None:
        """Put a filter out of use."""
        control = self._control
        if control.generation == generation:
            control.generation = NO_GENERATION
        if control.growing == generation:
            control.growing = NO_GENERATION
        if generation in self._mapped:
            self._mapped.pop(generation).close()
        _log.warning("opt-out filter put out of use", generation=generation, reason=reason)
