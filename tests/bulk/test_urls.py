"""URLs of fsspec, where it is installed: another implementation of storage, without rights, locks and fsync."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from bidstream_svc.bulk.parts import find_parts
from bidstream_svc.core.errors import ConfigurationError
from tests.bulk.logs import run, table, write_parquet
from tests.vectors.inputs import NOW_MS

needs_fsspec = pytest.mark.needs_tools("fsspec")


@pytest.fixture
def memory() -> Any:
    """The file system behind `memory://`, empty."""
    import fsspec  # noqa: PLC0415 - where it is installed

    filesystem = fsspec.filesystem("memory")
    filesystem.rm("/", recursive=True)
    return filesystem


@needs_fsspec
def test_from_url_to_url(memory: Any, tmp_path: Path) -> None:
    for name in ("a", "day=1/b"):
        content = write_parquet(tmp_path / f"{name}.parquet").read_bytes()
        memory.pipe_file(f"/logs/{name}.parquet", content)
    memory.pipe_file("/logs/_SUCCESS", b"")
    kept, done = run(["memory://logs"], "memory://out")
    assert [(result.name, result.rows, result.problem) for result in done] == [
        ("a.parquet", 100, None),
        ("day=1/b.parquet", 100, None),
    ]
    with memory.open("/out/day=1/b.parquet") as file:
        assert parquet.read_table(file)["status"].equals(table(100)["expected"])
    assert memory.find("/out/_bulk/tmp") == []
    kept, again = run(["memory://logs"], "memory://out")
    assert (sorted(kept, key=lambda result: result.name), again) == (done, [])
    memory.pipe_file("/logs/a.parquet", (tmp_path / "a.parquet").read_bytes()[:-1])
    _, (result,) = run(["memory://logs"], "memory://out", now_ms=NOW_MS + 1)
    assert result.problem is not None
    assert not memory.exists("/out/a.parquet")


@needs_fsspec
def test_from_url_to_path(memory: Any, tmp_path: Path) -> None:
    content = write_parquet(tmp_path / "a.parquet").read_bytes()
    memory.pipe_file("/logs/a.parquet", content)
    _, (result,) = run(["memory://logs/a.parquet"], tmp_path / "out")
    assert (result.name, result.rows) == ("a.parquet", 100)
    (part,) = find_parts(["memory://logs/a.parquet"])
    assert part.url == "memory://logs/a.parquet"
    assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301


def test_a_url_of_the_local_file_system(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a b%20.parquet")
    _, (result,) = run([f"file://{tmp_path}/a b%20.parquet"], f"file://{tmp_path}/out")
    assert result.rows == 100
    assert (tmp_path / "out" / "a b%20.parquet").is_file()


@pytest.mark.parametrize("url", ["nope://logs", "nope://user:secret@host/logs"])
def test_what_cannot_be_reached_is_one_error_without_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        find_parts([url])
    assert "nope://" in str(refused.value)
    assert "secret" not in str(refused.value)
