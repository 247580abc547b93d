"""Every command with standard streams that are closed, full or abandoned: one line, never a traceback."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from tests.support.cli import Cli
from tests.support.raw_http import ask
from tests.support.sidecar import DEADLINE_S, environment, operator_settings, wait_until

COMMAND = (sys.executable, "-m", "bidstream_svc")
PEOPLE = b"a@example.com\nb@example.com\n"
NO_OUTPUT = "bidstream-svc: cannot write the output: "


class Ended(NamedTuple):
    """What became of a process."""

    status: int
    out: bytes
    err: str


class Call(NamedTuple):
    """A command that ends by itself."""

    args: tuple[str, ...]
    stdin: bytes = b""

    @property
    def reads_stdin(self) -> bool:
        return self.stdin != b""

    @property
    def maps(self) -> bool:
        return "map" in self.args and "--help" not in self.args


@pytest.fixture
def env(operator: DevOperator, tmp_path: Path) -> dict[str, str]:
    sockets = {"listen": f"unix:{tmp_path}/data", "admin_listen": f"unix:{tmp_path}/admin"}
    return environment(operator_settings(operator) | sockets)


@pytest.fixture(scope="module")
def identity(operator: DevOperator) -> bytes:
    env = environment(operator_settings(operator))
    return run(["token", "generate"], env, stdin=b"validate@example.com\n").out


@pytest.fixture
def calls(operator: DevOperator, state: OperatorState, identity: bytes) -> list[Call]:
    """Every command, except those that serve; all succeed."""
    token = state.mint_token()
    return [
        Call(("--help",)),
        Call(("--version",)),
        Call(("identity", "map", "--help")),
        Call(("decrypt", token)),
        Call(("decrypt",), f"{token}\n".encode()),
        Call(("identity", "map", "a@example.com")),
        Call(("identity", "map"), PEOPLE),
        Call(("identity", "map", "--output-format", "csv", "--api", "2"), PEOPLE),
        Call(("token", "generate"), b"a@example.com\n"),
        Call(("token", "refresh"), identity),
        Call(("token", "validate"), identity),
        Call(("request", f"{operator.url}/v2/token/generate"), b'{"email": "a@example.com"}'),
        Call(("check", "--online")),
    ]


def start(args: Sequence[str], env: dict[str, str], redirection: str = "") -> "subprocess.Popen[bytes]":
    """Start a command as a shell does, with a redirection such as `2>&-`."""
    program = ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *args]
    return subprocess.Popen(program, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: "subprocess.Popen[bytes]", stdin: bytes | None = b"") -> Ended:
    try:
        out, err = process.communicate(stdin, timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in err.decode()
    return Ended(process.returncode, out, err.decode())


def run(args: Sequence[str], env: dict[str, str], redirection: str = "", stdin: bytes = b"") -> Ended:
    return finish(start(args, env, redirection), stdin)


def run_all(
    calls: list[Call], env: dict[str, str], redirection: str = "", *, has_reader: bool = True
) -> list[tuple[Call, Ended]]:
    """Run commands, four at a time; without a reader, the other end of their stdout is closed."""
    ended = []
    for first in range(0, len(calls), 4):
        started = [(call, start(call.args, env, redirection)) for call in calls[first : first + 4]]
        for _, process in started:
            if not has_reader and process.stdout:
                process.stdout.close()
                process.stdout = None
        ended += [(call, finish(process, call.stdin)) for call, process in started]
    return ended


@pytest.fixture
def few(calls: list[Call]) -> list[Call]:
    """Commands that write their output in different ways. Every start of a program takes half a second."""
    return [
        call for call in calls if call.args in {("--help",), ("decrypt",), ("identity", "map"), ("check", "--online")}
    ]


@pytest.mark.parametrize(
    ("redirection", "reason", "which"),
    [(">/dev/full", "No space left on device", "calls"), (">&-", "stdout is closed", "few")],
)
def test_output_that_cannot_be_written_is_one_line(
    request: pytest.FixtureRequest, env: dict[str, str], redirection: str, reason: str, which: str
) -> None:
    calls: list[Call] = request.getfixturevalue(which)
    hint = "; it is complete to row 0; go on with --start-row 1"
    for call, ended in run_all(calls, env, redirection):
        assert ended == (1, b"", f"{NO_OUTPUT}{reason}{hint if call.maps else ''}\n"), call.args


@pytest.mark.parametrize(("redirection", "which"), [("2>&-", "calls"), ("2>/dev/full", "few")])
def test_a_lost_stderr_changes_nothing_else(
    request: pytest.FixtureRequest, env: dict[str, str], redirection: str, which: str
) -> None:
    calls: list[Call] = request.getfixturevalue(which)
    for call, ended in run_all(calls, env, redirection):
        assert ended.status == 0, call.args
        assert ended.out, call.args
    failed = run(["decrypt", "hidden"], env, redirection)
    assert (failed.status, failed.err) == (1, "")
    assert json.loads(failed.out)["uid"] is None
    invalid = run(["identity", "map"], env, redirection, stdin=b"bad\n" * 100)
    assert (invalid.status, invalid.out.count(b"\n")) == (0, 100)
    assert run(["no-such-command"], env, redirection) == (2, b"", "")


def test_a_closed_stdin_is_one_line_for_those_that_read_it(
    calls: list[Call], few: list[Call], env: dict[str, str]
) -> None:
    for call, ended in run_all([call for call in calls if call.reads_stdin or call in few], env, "<&-"):
        if call.reads_stdin:
            assert ended == (1, b"", "bidstream-svc: stdin is closed\n"), call.args
        else:
            assert (ended.status, ended.err) == (0, ""), call.args


def test_a_stdin_that_cannot_be_read_is_one_line(calls: list[Call], env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hidden")
    for call, ended in run_all([call for call in calls if call.reads_stdin], env, f"0>>{tmp_path}/file"):
        assert (ended.out, ended.err.count("\n")) == (b"", 1), call.args
        assert ended.status in {1, 2}, call.args
        assert "cannot read" in ended.err


@pytest.mark.parametrize(
    ("workers", "redirection"),
    [
        ("1", ">/dev/full"),
        ("2", ">&-"),
        ("1", "2>&-"),
        ("2", "2>/dev/full"),
        ("1", "<&-"),
        ("1", "<&- >&- 2>&-"),
        ("2", "<&- >&- 2>&-"),
    ],
)
def test_serve_needs_none_of_them(env: dict[str, str], tmp_path: Path, redirection: str, workers: str) -> None:
    def is_ready() -> bool:
        try:
            return ask(f"unix:{tmp_path}/admin", "/readyz", method="GET").status == 200
        except OSError:
            return False

    process = start(["serve", "--workers", workers], env, redirection)
    try:
        wait_until(is_ready, "/readyz")
        process.send_signal(signal.SIGTERM)
    finally:
        ended = finish(process)
    assert (ended.status, ended.out) == (0, b"")


@pytest.mark.parametrize(("args", "redirection"), [(["operator"], ">/dev/full"), (["serve", "--dev"], ">&-")])
def test_what_serves_and_prints_says_that_it_cannot_print(
    env: dict[str, str], args: list[str], redirection: str
) -> None:
    ended = run(args, env, redirection)
    assert (ended.status, ended.out) == (1, b"")
    assert ended.err.splitlines()[-1].startswith(NO_OUTPUT)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&-"])
def test_the_operator_serves_without_the_others(env: dict[str, str], redirection: str) -> None:
    process = start(["operator"], env, redirection)
    try:
        assert process.stdout
        assert json.loads(process.stdout.readline()).keys() == {"url", "api_key", "client_secret"}
        process.send_signal(signal.SIGINT)
    finally:
        ended = finish(process)
    assert ended == (0, b"", "")


def test_a_closed_pipe_is_no_traceback(calls: list[Call], env: dict[str, str]) -> None:
    hint = "bidstream-svc: nobody reads the output any more, stopped after row 0; go on with --start-row 1\n"
    for call, ended in run_all(calls, env, has_reader=False):
        assert (ended.status, ended.err) == (1, hint if call.maps else ""), call.args


@pytest.mark.parametrize(
    "args", [["decrypt"], ["identity", "map"], ["token", "generate"], ["request", "http://[::1]:9"]]
)
def test_ctrl_c_while_waiting_for_input_is_one_line(env: dict[str, str], args: list[str]) -> None:
    process = start(args, env)
    reads = Path(f"/proc/{process.pid}/wchan")
    try:
        wait_until(lambda: "pipe" in reads.read_text(), "the command to read")
        process.send_signal(signal.SIGINT)
    finally:
        ended = finish(process)
    told = "interrupted after row 0; go on with --start-row 1" if "map" in args else "interrupted"
    assert (ended.status, ended.out, ended.err.strip()) == (1, b"", f"bidstream-svc: {told}")


CALLED = {
    "decrypt": "/v2/key/bidstream",
    "generate": "/v2/token/generate",
    "request": "/v2/token/generate",
    "check": "/v2/key/bidstream",
}


@pytest.mark.parametrize("word", CALLED)
def test_ctrl_c_during_a_request_is_one_line(
    state: OperatorState, calls: list[Call], env: dict[str, str], word: str
) -> None:
    call = next(call for call in calls if word in call.args)
    state.faults.inject(Fault.HANG_BEFORE_ANSWER, path=CALLED[word])
    before = state.calls[CALLED[word]]
    process = start(call.args, env)
    assert process.stdin
    process.stdin.write(call.stdin)
    process.stdin.close()
    process.stdin = None
    try:
        wait_until(lambda: state.calls[CALLED[word]] > before, "the request")
        process.send_signal(signal.SIGINT)
    finally:
        ended = finish(process, None)
    assert (ended.status, ended.err.strip()) == (1, "bidstream-svc: interrupted")


def test_a_full_disk_names_the_row_to_continue_at(env: dict[str, str], tmp_path: Path) -> None:
    """The file may grow to 3 MiB, which is more than one window of 20,000 rows and less than two."""
    people = b"".join(b"%d@example.com\n" % number for number in range(1, 60_001))
    script = f'ulimit -f 6144; exec "$@" > {tmp_path}/out'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "identity", "map"],
        env=env,
        input=people,
        capture_output=True,
        check=False,
        timeout=DEADLINE_S * 2,
    )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"{NO_OUTPUT}File too large; it is complete to row 20000; go on with --start-row 20001\n"
    )
    lines = (tmp_path / "out").read_bytes().splitlines()
    assert json.loads(lines[19_999])["row"] == 20_000


def test_an_operator_without_a_reader_does_not_blame_its_address(env: dict[str, str]) -> None:
    for args in (["operator"], ["serve", "--dev"]):
        process = start(args, env)
        assert process.stdout
        process.stdout.close()
        process.stdout = None
        ended = finish(process)
        assert ended.status == 1
        assert "cannot" not in ended.err


def test_text_that_the_terminal_cannot_show_is_escaped(env: dict[str, str]) -> None:
    call = ["request", "--echo", "http://127.0.0.1:9/"]
    ended = run(call, env | {"PYTHONIOENCODING": "latin-1"}, stdin="\N{EURO SIGN}".encode())
    assert ended.status == 1
    assert b": \\u20ac\n" in ended.out
    assert ended.err.count("\n") == 1


def test_a_programming_error_is_one_line_without_its_message(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_operator: object) -> None:
        raise RuntimeError("hidden")

    monkeypatch.setattr("bidstream_svc.keystore.key_source.fetch_once", fail)
    outcome = cli("decrypt", "token")
    assert outcome.status == 1
    assert re.fullmatch(r"internal error: RuntimeError at test_streams\.py:\d+; please report it", outcome.complaint)
