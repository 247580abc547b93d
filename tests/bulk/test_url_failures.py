"""Storage behind URLs that fails with exceptions of its own library: one error each, as for files of this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.bulk import parts as parts_module
from bidstream_svc.core.errors import BulkOutputError, ConfigurationError, DamagedFileError
from tests.bulk.logs import run, write_parquet

pytestmark = pytest.mark.needs_tools("fsspec")


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Any]:
    """Storage with `failing://logs`, which has four files."""
    import fsspec  # noqa: PLC0415 - where it is installed

    from tests.bulk.failing_storage import FailingStorage  # noqa: PLC0415

    fsspec.register_implementation("failing", FailingStorage, clobber=True)
    FailingStorage.store.clear()
    FailingStorage.pseudo_dirs[:] = [""]
    FailingStorage.fails = None
    filesystem = FailingStorage()
    content = write_parquet(tmp_path / "a.parquet").read_bytes()
    for name in ("a", "b", "day=1/c"):
        filesystem.pipe_file(f"/logs/{name}.parquet", content)
    filesystem.pipe_file("/logs/d.ndjson", b'{"token": null}\n')
    yield FailingStorage
    FailingStorage.fails = None


@pytest.mark.parametrize("operation", ["open", "read"])
@pytest.mark.parametrize("name", ["b.parquet", "d.ndjson"])
def test_a_file_that_cannot_be_read_is_damaged_and_the_rest_goes_on(storage: Any, operation: str, name: str) -> None:
    storage.fails = operation, f"logs/{name}"
    _, done = run(["failing://logs"], "failing://out")
    assert {result.url: result.problem for result in done if result.problem} == {
        f"failing://logs/{name}": "cannot be read: EndpointConnectionError"
    }
    assert len(done) == 4
    with pytest.raises(DamagedFileError, match=r"^cannot be read: EndpointConnectionError") as damaged:
        run(["failing://logs"], "failing://out", strict=True)
    assert damaged.value.__notes__ == [f"failing://logs/{name}"]
    storage.fails = None
    kept, (result,) = run(["failing://logs"], "failing://out")
    assert (len(kept), result.problem) == (3, None)


@pytest.mark.parametrize("operation", ["open", "read"])
def test_the_output_of_a_file_that_cannot_be_read_any_longer_stays(storage: Any, operation: str) -> None:
    run(["failing://logs"], "failing://out")
    storage.fails = operation, "logs/b.parquet"
    kept, (result,) = run(["failing://logs"], "failing://out")
    assert (len(kept), result.problem) == (4, "cannot be read: EndpointConnectionError")
    storage.fails = None
    kept, done = run(["failing://logs"], "failing://out")
    assert (len(kept), done) == (4, [])


@pytest.mark.parametrize("operation", ["create", "write", "close", "mv"])
def test_output_that_cannot_be_written_is_one_error_and_the_run_goes_on(storage: Any, operation: str) -> None:
    run(["failing://logs"], "failing://out")
    storage().rm("/out/b.parquet")
    storage.fails = operation, "/out/b.parquet" if operation == "mv" else "/out/_bulk/tmp"
    with pytest.raises(BulkOutputError, match=r"^cannot write to failing://out: EndpointConnectionError$"):
        run(["failing://logs"], "failing://out")
    storage.fails = None
    kept, (result,) = run(["failing://logs"], "failing://out")
    assert (len(kept), result.name) == (3, "b.parquet")


@pytest.mark.parametrize(
    ("operation", "path"), [("info", "logs"), ("ls", "logs"), ("ls", "day=1"), ("mkdir", "out"), ("ls", "out/_bulk")]
)
def test_storage_that_cannot_be_reached_is_one_error(storage: Any, operation: str, path: str) -> None:
    run(["failing://logs"], "failing://out")
    storage.fails = operation, path
    with pytest.raises((ConfigurationError, BulkOutputError), match=r": EndpointConnectionError$"):
        run(["failing://logs"], "failing://out" if path != "out" else "failing://out/2")


def test_output_that_cannot_be_removed_is_not_taken_for_none(
    storage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stay beside the parts that replace it."""
    run(["failing://logs"], "failing://out")
    monkeypatch.setattr(parts_module, "MAX_PART_ROWS", 30)
    larger = write_parquet(tmp_path / "b.parquet", 60, row_group_size=20)
    storage().pipe_file("/logs/b.parquet", larger.read_bytes())
    storage.fails = "info", "out/b.parquet"
    with pytest.raises(BulkOutputError, match="EndpointConnectionError"):
        run(["failing://logs"], "failing://out")
    storage.fails = None
    kept, done = run(["failing://logs"], "failing://out")
    assert (len(kept), len(done)) == (3, 3)
    assert not storage().exists("/out/b.parquet")


def test_records_that_cannot_be_read_are_not_taken_for_none(storage: Any) -> None:
    run(["failing://logs"], "failing://out")
    storage.fails = "open", "run.json"
    with pytest.raises(BulkOutputError, match="EndpointConnectionError"):
        run(["failing://logs"], "failing://out")


def test_a_file_system_that_cannot_be_opened_is_one_error(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: Any) -> None:
        storage.fails = "init", ""
        storage.check("init", "")

    monkeypatch.setattr(storage, "__init__", fail)
    storage.clear_instance_cache()
    with pytest.raises(ConfigurationError, match=r"^failing:// cannot be used: EndpointConnectionError$"):
        run(["failing://logs"], "failing://out")
