"""A real Ray: of one machine, and a cluster of two nodes."""

import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.bulk_engines.conftest import World
from tests.bulk_engines.material import FILES, leaks, table_of
from tests.bulk_engines.programs import BIN, TIMEOUT_S, Program, log_files, run, running
from tests.support.sidecar import wait_until

pytestmark = [pytest.mark.needs_tools("ray"), pytest.mark.timeout(600)]


@pytest.fixture
def ray_directory() -> Iterator[Path]:
    """Of Ray's sessions. Not `tmp_path`, because the paths of Unix sockets are short."""
    directory = Path(tempfile.mkdtemp(prefix="r"))
    yield directory
    shutil.rmtree(directory)


def command(world: World, output: Path, *options: str) -> list[str | Path]:
    logs = world.logs.directory
    return [BIN / "bidstream-svc", "bulk", "decrypt", logs, "--output", output, "--engine", "ray", *options]


def files_in(output: Path) -> int:
    return len(list(output.glob("*.parquet")))


def kill_busy_worker(program: Program) -> None:
    """SIGKILL for a worker in the middle of a part."""
    stopped: list[int] = []

    def busy_workers() -> list[int]:
        return program.find(lambda line: line.startswith("ray::") and "decrypt_parts" in line)

    def has_stopped_a_busy_one() -> bool:
        for pid in busy_workers():
            os.kill(pid, signal.SIGSTOP)
            if pid in busy_workers():  # it has not ended its part before the signal
                stopped.append(pid)
                return True
            os.kill(pid, signal.SIGCONT)
        return False

    wait_until(has_stopped_a_busy_one, "a busy worker", TIMEOUT_S)
    os.kill(stopped[0], signal.SIGKILL)


def test_a_killed_worker_changes_nothing(world: World, tmp_path: Path, output: Path, ray_directory: Path) -> None:
    env = world.env | {"RAY_TMPDIR": str(ray_directory)}
    with running(tmp_path / "run", *command(world, output), env=env) as program:
        wait_until(lambda: files_in(output) or program.process.poll() is not None, "a first file", TIMEOUT_S)
        kill_busy_worker(program)
        assert files_in(output) < FILES
        assert program.wait() == 0, program.output
        printed, errors = program.output, program.errors
    world.check(table_of(output))
    assert json.loads(errors.splitlines()[-1])["written"] == len(world.logs.tokens)
    assert "will be retried" in printed  # on stdout, perhaps as late as when the program ends
    # Its log files have neither keys nor raw uids.
    assert leaks(world.logs.secrets, log_files([ray_directory, tmp_path / "run"])) == []


def test_an_interrupted_run_goes_on(world: World, tmp_path: Path, output: Path, ray_directory: Path) -> None:
    env = world.env | {"RAY_TMPDIR": str(ray_directory)}
    with running(tmp_path / "first", *command(world, output), env=env) as program:
        wait_until(lambda: files_in(output) or program.process.poll() is not None, "a first file", TIMEOUT_S)
        program.process.send_signal(signal.SIGINT)
        assert program.wait() == 1
        assert "interrupted" in program.errors.splitlines()[-1]
    kept = files_in(output)
    assert 0 < kept < FILES
    printed = run(tmp_path / "second", *command(world, output), env=env)
    assert json.loads(printed)["kept_files"] == kept  # nothing of Ray is on stderr
    world.check(table_of(output))


@contextmanager
def cluster(directory: Path, token: dict[str, str], nodes: int = 2) -> Iterator[str]:
    """One or two nodes of one processor each, which nobody may use without a token; the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    env = {**os.environ, **token, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(directory)}
    ray: list[str | Path] = [BIN / "ray", "start", "--block", "--num-cpus=1", "--object-store-memory=200000000"]
    head = [*ray, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={directory}"]
    node = [*ray, f"--address=127.0.0.1:{port}"]
    with ExitStack() as started:
        for number, start in enumerate([head, node][:nodes]):
            started.enter_context(running(directory / str(number), *start, env=env)).wait_for("Ray runtime started")
        yield f"127.0.0.1:{port}"


def test_nodes_without_the_store_get_a_copy(world: World, tmp_path: Path, output: Path, ray_directory: Path) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    copies = tmp_path / "copies"
    copies.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(copies))
        with cluster(ray_directory, token) as address:
            with running(tmp_path / "run", *command(world, output, "--ray", address), env=world.env | token) as program:
                made = list[Path]()

                def has_copy() -> bool:
                    made.extend(copies.glob("bidstream-bulk-*/store"))
                    return bool(made) or program.process.poll() is not None

                wait_until(has_copy, "a copy of the store", TIMEOUT_S)
                assert program.wait() == 0, program.output
            assert made
            assert list(copies.glob("bidstream-bulk-*")) == []
            assert leaks(world.logs.secrets, log_files([ray_directory, tmp_path / "run"])) == []
    world.check(table_of(output))


@pytest.mark.parametrize("options", [["--ray", "127.0.0.1:1"], ["--ray", "nowhere"]])
def test_without_a_cluster_there_is_one_clear_error(
    world: World, tmp_path: Path, output: Path, options: list[str]
) -> None:
    with running(tmp_path / "run", *command(world, output, *options), env=world.env) as program:
        assert program.wait() != 0
        assert options[-1] in program.output
        assert len(program.output.splitlines()) == 1


@pytest.mark.parametrize("token", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x" * 64}], ids=["none", "wrong"])
def test_a_token_that_is_missing_or_wrong_is_one_clear_error(
    world: World, tmp_path: Path, output: Path, ray_directory: Path, token: dict[str, str]
) -> None:
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with cluster(ray_directory, right, nodes=1) as address:
        with running(tmp_path / "run", *command(world, output, "--ray", address), env=world.env | token) as program:
            assert program.wait() == 2
        assert "its token is missing or wrong" in program.errors
        assert len(program.errors.splitlines()) == 1


def test_without_ray_the_extra_is_named(world: World, tmp_path: Path, output: Path) -> None:
    """In an interpreter that cannot find it."""
    program = "import sys; sys.modules['ray'] = None; from bidstream_svc.cli import main; main()"
    options = command(world, output)[1:]
    with running(tmp_path / "run", sys.executable, "-c", program, *options, env=world.env) as started:
        assert started.wait() != 0
        assert "bidstream-svc[ray]" in started.output
