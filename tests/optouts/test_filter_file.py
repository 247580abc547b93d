"""Filter files: one that may lack an id of its store is not used."""

import resource
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.optouts import filter_file
from bidstream_svc.optouts.control_words import CONTROL_BYTES, ControlWords
from bidstream_svc.optouts.filter_file import (
    BITS_AN_ID,
    HEADER_BYTES,
    FilterFile,
    FilterIdentity,
    blocks_for,
    filter_generations,
    filter_path,
    new_identity,
)

STORE_ID = bytes(range(16))
IDENTITY = FilterIdentity(3, 10, bytes(range(16, 32)), STORE_ID)


def open_again(directory: Path, generation: int = 3) -> FilterFile:
    return FilterFile.open(directory, generation, STORE_ID)


def is_complete(directory: Path, last_transaction: int) -> bool:
    file = open_again(directory)
    try:
        return file.is_complete(last_transaction)
    finally:
        file.close()


def another_boot() -> object:
    return patch.object(filter_file, "_boot_id", return_value=b"another")


def test_what_is_created_is_opened_again(tmp_path: Path) -> None:
    created = FilterFile.create(tmp_path, IDENTITY, 7)
    created.words[79] = -5
    opened = open_again(tmp_path)
    assert opened.identity == IDENTITY
    assert opened.words.tolist() == [0] * 79 + [-5]
    assert opened.noted == 7
    path = filter_path(tmp_path, 3)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == IDENTITY.file_bytes == HEADER_BYTES + 640
    assert path.stat().st_blocks * 512 >= path.stat().st_size  # no hole
    assert filter_generations(tmp_path) == [3]
    with pytest.raises(FileExistsError):
        FilterFile.create(tmp_path, IDENTITY, 7)
    created.close()
    opened.close()


def test_capacity() -> None:
    for capacity in (0, 1, 25, 26, 1_000, 10_000_000):
        identity = new_identity(1, capacity, STORE_ID)
        assert identity.blocks == blocks_for(capacity) >= 1
        assert capacity <= identity.capacity <= capacity + 512 // BITS_AN_ID
    assert new_identity(1, 1, STORE_ID).key != new_identity(1, 1, STORE_ID).key


def test_every_damaged_bit_of_what_never_changes_is_noticed() -> None:
    header = IDENTITY.encode().ljust(HEADER_BYTES, b"\0")
    assert FilterIdentity.decode(header) == IDENTITY
    for bit in range(len(IDENTITY.encode()) * 8):
        damaged = bytearray(header)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(OptOutStoreError):
            FilterIdentity.decode(bytes(damaged))


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 639, HEADER_BYTES + 641])
def test_a_file_of_another_size_is_not_opened(tmp_path: Path, size: int) -> None:
    FilterFile.create(tmp_path, IDENTITY, 1).close()
    with filter_path(tmp_path, 3).open("r+b") as file:
        file.truncate(size)
    with pytest.raises(OptOutStoreError):
        open_again(tmp_path)


def test_a_filter_of_another_store_or_generation_is_not_opened(tmp_path: Path) -> None:
    FilterFile.create(tmp_path, IDENTITY, 1).close()
    with pytest.raises(OptOutStoreError):
        FilterFile.open(tmp_path, 3, bytes(16))
    filter_path(tmp_path, 3).rename(filter_path(tmp_path, 4))
    with pytest.raises(OptOutStoreError):
        open_again(tmp_path, 4)
    with pytest.raises(FileNotFoundError):
        open_again(tmp_path, 5)


def test_in_the_same_boot_it_is_complete_if_it_has_noted_every_transaction(tmp_path: Path) -> None:
    file = FilterFile.create(tmp_path, IDENTITY, 7)
    assert [is_complete(tmp_path, last) for last in (6, 7, 8)] == [True, True, False]
    file.note(8)
    assert is_complete(tmp_path, 8)
    file.close()
    assert is_complete(tmp_path, 8)


def test_after_another_boot_only_what_was_synced_counts(tmp_path: Path) -> None:
    file = FilterFile.create(tmp_path, IDENTITY, 7)
    file.words[3] = 1
    with another_boot():  # type: ignore[attr-defined]
        assert not is_complete(tmp_path, 7)
        file.sync(7)
        assert [is_complete(tmp_path, last) for last in (6, 7, 8)] == [True, True, False]
    file.note(8)
    with another_boot():  # type: ignore[attr-defined]
        assert not is_complete(tmp_path, 8)
        file.words[3] = 0
        assert not is_complete(tmp_path, 7)
    file.close()


def test_one_that_was_adopted_counts_as_of_this_boot_and_no_longer_as_synced(tmp_path: Path) -> None:
    file = FilterFile.create(tmp_path, IDENTITY, 7)
    file.sync(7)
    file.close()
    with another_boot():  # type: ignore[attr-defined]
        file = open_again(tmp_path)
        # LMDB has lost transaction 7, which was not on the disk, and will use its number again.
        assert file.is_complete(6)
        file.adopt(6)
        assert [is_complete(tmp_path, last) for last in (6, 7)] == [True, False]
        file.note(7)
        assert is_complete(tmp_path, 7)
        file.close()
    assert not is_complete(tmp_path, 7)


def test_a_copy_counts_only_if_it_was_synced(tmp_path: Path) -> None:
    file = FilterFile.create(tmp_path, IDENTITY, 7)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(filter_path(tmp_path, 3), copy)
    assert is_complete(tmp_path, 7)
    assert not is_complete(copy, 7)
    file.sync(7)
    file.close()
    shutil.copy(filter_path(tmp_path, 3), copy)
    assert is_complete(copy, 7)


def test_a_synced_filter_with_a_damaged_block_is_not_complete(tmp_path: Path) -> None:
    file = FilterFile.create(tmp_path, IDENTITY, 7)
    file.words[0] = 3
    file.sync(7)
    file.close()
    with another_boot():  # type: ignore[attr-defined]
        assert is_complete(tmp_path, 7)
        with filter_path(tmp_path, 3).open("r+b") as damaged:
            damaged.seek(HEADER_BYTES)
            damaged.write(b"\1")
        assert not is_complete(tmp_path, 7)


def test_where_there_is_no_room_nothing_is_left_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(OSError, match="large"):
            FilterFile.create(tmp_path, new_identity(1, 10_000_000, STORE_ID), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert filter_generations(tmp_path) == []


def test_control_words_are_shared(tmp_path: Path) -> None:
    ours, theirs = ControlWords(tmp_path, create=True), ControlWords(tmp_path, create=False)
    names = ("generation", "growing", "newest", "fresh_until_ms")
    for value, name in enumerate(names, start=2**62):
        setattr(ours, name, value)
    assert [getattr(theirs, name) for name in names] == [*range(2**62, 2**62 + 4)]
    assert ours.words[1:5].tolist() == [2**62, 2**62 + 1, 2**62 + 3, 2**62 + 2]
    assert (tmp_path / "control").stat().st_mode & 0o777 == 0o600
    assert ControlWords(tmp_path, create=True).generation == 2**62


@pytest.mark.parametrize("content", [b"", b"x" * CONTROL_BYTES, bytes(CONTROL_BYTES), b"optouts\2" * 512, b"\0" * 9])
def test_control_words_that_are_damaged_or_of_another_version(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "control").write_bytes(content)
    with pytest.raises(OptOutStoreError, match="control"):
        ControlWords(tmp_path, create=False)
    if any(content) or len(content) not in {0, CONTROL_BYTES}:
        with pytest.raises(OptOutStoreError, match="control"):
            ControlWords(tmp_path, create=True)
    else:  # as of a process that ended while it created the file
        assert ControlWords(tmp_path, create=True).generation == 0


def test_control_words_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ControlWords(tmp_path, create=False)
