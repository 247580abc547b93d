"""Commands as real processes: pipelines, retries, terminals, signals, closed pipes, memory."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from tests.support.sidecar import DEADLINE_S, environment, operator_settings, wait_until

MAP = "/v3/identity/map"
COMMAND = [sys.executable, "-m", "bidstream_svc"]


@pytest.fixture
def env(operator: DevOperator) -> dict[str, str]:
    return environment(operator_settings(operator))


@contextmanager
def started(*args: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command with pipes on all sides; killed if a test leaves it running."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *args], env=env, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_pipeline_of_requests(operator: DevOperator, env: dict[str, str]) -> None:
    program = shlex.join(COMMAND)
    script = f"""
        set -eo pipefail
        echo '{{"email": "a@example.com"}}' |
            {program} request --json {operator.url}/v2/token/generate |
            {program} request {operator.url}/v2/token/refresh --refresh-token |
            sed '1,/^Response JSON:/d'
    """
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, timeout=30, check=True)
    assert done.stderr == b""
    assert json.loads(done.stdout)["body"]["advertising_token"]


def test_retries_do_not_appear_in_the_output(state: OperatorState, env: dict[str, str]) -> None:
    state.faults.inject(Fault.SERVER_ERROR, path="/v2/token/generate")
    before = state.calls["/v2/token/generate"]
    done = subprocess.run(
        [*COMMAND, "token", "generate"], input=b"a@example.com\n", env=env, capture_output=True, timeout=30, check=True
    )
    assert state.calls["/v2/token/generate"] == before + 2
    assert json.loads(done.stdout)["advertising_token"]
    assert done.stderr == b""


def test_a_closed_output_pipe_is_one_line(env: dict[str, str]) -> None:
    with started("identity", "map", env=env) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"".join(b"%d@example.com\n" % number for number in range(2_000)))  # more than a pipe holds
        process.stdin.close()
        assert json.loads(process.stdout.readline())["row"] == 1
        process.stdout.close()
        assert process.stderr.read() == (
            b"bidstream-svc: nobody reads the output any more, stopped after row 0; go on with --start-row 1\n"
        )
        assert process.wait(DEADLINE_S) == 1


@pytest.mark.parametrize(("start_row", "after"), [("1", "row 0"), ("2", "row 1")])
def test_ctrl_c_is_one_line(state: OperatorState, env: dict[str, str], start_row: str, after: str) -> None:
    state.faults.inject(Fault.HANG_BEFORE_ANSWER, path=MAP)
    before = state.calls[MAP]
    people = "a@example.com", "b@example.com"
    with started("identity", "map", "--start-row", start_row, *people, env=env) as process:
        wait_until(lambda: state.calls[MAP] > before, "the request")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (1, b"")
    assert err.decode().strip() == f"bidstream-svc: interrupted after {after}; go on with --start-row {start_row}"


def test_a_terminal_gets_a_progress_bar_and_the_output_does_not(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("email\na@example.com\nbad\n")
    leader, follower = pty.openpty()
    with (tmp_path / "out").open("wb") as out:
        args = [*COMMAND, "identity", "map", "--input", str(tmp_path / "people.csv")]
        done = subprocess.run(args, env=env, stdout=out, stderr=follower, timeout=30, check=True)
    os.close(follower)
    shown = os.read(leader, 65_536).decode()
    os.close(leader)
    assert done.returncode == 0
    assert re.search(r"looking up .*100%", shown)
    assert "row 2: not an e-mail address" in shown
    assert [json.loads(line)["row"] for line in (tmp_path / "out").read_text().splitlines()] == [1, 2]


def peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_memory_does_not_grow_with_the_input(env: dict[str, str]) -> None:
    """Windows of 20,000 rows: what the first two take is all that there is ever taken."""
    peaks, line = [], b""
    with started("identity", "map", env=env) as process:
        assert process.stdin
        assert process.stdout
        for window in range(3):
            process.stdin.write(b"".join(b"%d-%d@example.com\n" % (window, number) for number in range(20_000)))
            process.stdin.flush()
            for _ in range(20_000):
                line = process.stdout.readline()
            peaks.append(peak_kib(process.pid))
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0
    assert json.loads(line)["row"] == 60_000
    # Kept results of one window alone would be more than this.
    assert peaks[2] - peaks[1] < 4 * 1024
