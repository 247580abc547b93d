"""The output directory: what is written would survive a loss of power."""

import os
from pathlib import Path

import pytest

from tests.bulk.logs import run, write_parquet


def test_files_and_their_names_are_on_disk_when_a_run_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "logs" / "day=1" / "a.parquet")
    synced: dict[Path, set[str]] = {}
    inodes: set[int] = set()
    fsync = os.fsync

    def record(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            synced[path] = {each.name for each in path.iterdir()}
        else:
            inodes.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    output = tmp_path / "made" / "out"
    run([tmp_path / "logs"], output)
    written = [path for path in output.parent.rglob("*") if path.name != "lock"]
    assert {path for path in written if path.is_file() and path.stat().st_ino not in inodes} == set()
    assert {path for path in [output.parent, *written] if path.name not in synced.get(path.parent, ())} == set()
