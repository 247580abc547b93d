"""A real Spark: the example's job by spark-submit on a cluster of processes, and Spark Connect."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bulk_engines.conftest import World
from tests.bulk_engines.material import leaks, table_of
from tests.bulk_engines.programs import BIN, TIMEOUT_S, Program, log_files, run, running
from tests.support.sidecar import wait_until

pytestmark = [pytest.mark.needs_tools("java", "pyspark"), pytest.mark.timeout(600)]

JOB = Path(__file__).parents[2] / "deploy/examples/spark/decrypt_job.py"
CONF = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.sql.files.maxPartitionBytes": "8m",  # a task for each of the files
    "spark.ui.showConsoleProgress": "false",
}


def spark_env(world: World, directory: Path) -> dict[str, str]:
    """Spark, whose workers write below this directory, as pip has installed it."""
    home = directory / "spark-home"
    home.mkdir()
    installed = subprocess.run([BIN / "find_spark_home.py"], check=True, capture_output=True, text=True).stdout.strip()
    for path in Path(installed).iterdir():
        (home / path.name).symlink_to(path)
    local = directory / "spark-local"
    local.mkdir()
    return world.env | {
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_DIRS": str(local),
    }


def submit(env: dict[str, str], master: str, world: World, output: Path, **conf: str) -> list[str | Path]:
    options = [f"--conf={name}={value}" for name, value in (CONF | conf).items()]
    return [
        Path(env["SPARK_HOME"]) / "bin/spark-submit",
        f"--master={master}",
        *options,
        JOB,
        world.logs.directory,
        output,
    ]


def executor_pids(program: Program) -> dict[str, int]:
    """The process ids of the executors by what Spark calls them."""
    found = {}
    for pid in program.find(lambda line: "CoarseGrainedExecutorBackend" in line and "java" in line):
        with suppress(FileNotFoundError, ProcessLookupError):
            arguments = Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")
            found[arguments[arguments.index("--executor-id") + 1]] = pid
    return found


def tasks_of(executor: str, program: Program) -> int:
    """How many tasks an executor has and has not finished, as the driver sees it."""
    started = re.findall(rf"Starting task .*,executor {executor},", program.errors)
    return len(started) - len(re.findall(rf"Finished task .* \(executor {executor}\)", program.errors))


def kill_busy_executor(program: Program, output: Path) -> None:
    """SIGKILL for an executor in the middle of a task, once a task has written its file."""
    executors: dict[str, int] = {}

    def is_in_the_middle() -> bool:
        executors.update(executor_pids(program))
        is_written = any(output.glob("_temporary/0/task_*/*.parquet"))
        return (is_written and any(tasks_of(each, program) for each in executors)) or program.process.poll() is not None

    wait_until(is_in_the_middle, "a first file", TIMEOUT_S)
    executor = next(each for each in executors if tasks_of(each, program))
    # A task may end between a look at it and the signal. One that is stopped ends none, and the driver gives it the
    # next one if its last has ended.
    os.kill(executors[executor], signal.SIGSTOP)
    wait_until(lambda: tasks_of(executor, program), "a task of the executor that is stopped", TIMEOUT_S)
    assert not (output / "_SUCCESS").exists()
    os.kill(executors[executor], signal.SIGKILL)


def test_a_killed_executor_changes_nothing(world: World, tmp_path: Path, output: Path) -> None:
    env = spark_env(world, tmp_path)
    with running(tmp_path / "run", *submit(env, "local-cluster[2,1,1024]", world, output), env=env) as program:
        kill_busy_executor(program, output)
        assert program.wait() == 0, program.output
        assert "ExecutorLostFailure" in program.output
    assert (output / "_SUCCESS").exists()
    world.check(table_of(output))
    work = Path(env["SPARK_HOME"]) / "work"
    logs = [path for path in log_files([work, tmp_path / "run"]) if path.suffix != ".jar"]
    assert len(logs) > 2
    assert leaks(world.logs.secrets, iter(logs)) == []


CONNECT = """
import sys
from pathlib import Path
from pyspark.sql import SparkSession
from bidstream_svc.bulk.spark import decrypt
logs, output = sys.argv[1:]
spark = SparkSession.builder.remote("local[2]").getOrCreate()
decrypted = decrypt(spark.read.parquet(logs))
decrypted.write.parquet(output)
decrypted.explain("extended")
print(decrypted)
spark.stop()
"""


def test_spark_connect(world: World, tmp_path: Path, output: Path) -> None:
    env = spark_env(world, tmp_path)
    printed = run(tmp_path / "run", sys.executable, "-c", CONNECT, world.logs.directory, output, env=env)
    assert "MapInArrow" in printed
    world.check(table_of(output))
    assert leaks(world.logs.secrets, log_files([tmp_path / "run"])) == []


def test_a_store_that_workers_lack_is_named(world: World, tmp_path: Path, output: Path) -> None:
    env = spark_env(world, tmp_path) | {"BIDSTREAM_OPTOUT_STORE": str(tmp_path / "nowhere")}
    with running(tmp_path / "run", *submit(env, "local[1]", world, output), env=env) as program:
        assert program.wait() != 0
        assert (
            f"opt-out store {tmp_path / 'nowhere'}: No such file or directory; this directory has to be on every worker"
            in (program.output)
        )
