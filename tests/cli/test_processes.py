"""Commands as real processes: `python -m`, pipes, signals, and pasting what they print."""

import json
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from uid2_client import BidstreamClient

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.raw_http import ask
from tests.support.sidecar import DEADLINE_S, Sidecar, environment, operator_settings, wait_until

MODULE = [sys.executable, "-m", "bidstream_svc"]


def test_a_closed_output_pipe_is_not_an_error(operator: DevOperator) -> None:
    # More tokens than a pipe holds answers for, and one line that is wanted.
    with subprocess.Popen(
        [*MODULE, "decrypt"],
        env=environment(operator_settings(operator)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"abcd\n" * 5_000)
        process.stdin.close()
        assert b"VERSION_NOT_SUPPORTED" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE_S) == 1


def test_a_command_leaves_no_core_dump(tmp_path: Path) -> None:
    """It would contain what the command reads."""
    command = [*MODULE, "optouts", "import", "-", "--optout-store", str(tmp_path / "store")]
    with subprocess.Popen(command, env=environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        wait_until((tmp_path / "store" / "data.mdb").exists, "the store")  # now it reads
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def test_the_operator_tells_how_to_reach_it_and_repeats_with_a_seed() -> None:
    process = subprocess.Popen(
        [*MODULE, "operator", "--seed", "3", "--listen", "127.0.0.1:0", "--scope", "EUID"],
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stderr
        line = json.loads(process.stdout.readline())
        assert line.keys() == {"url", "api_key", "client_secret"}
        state = OperatorState(3, scope=IdentityScope.EUID)
        assert (line["api_key"], line["client_secret"]) == (state.api_key, state.client_secret)

        client = BidstreamClient(line["url"], line["api_key"], line["client_secret"])
        assert client.refresh().success
        assert client.decrypt_token_into_raw_uid(state.mint_token(), None).uid == state.raw_uid("someone@example.com")

        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, rest, complaints) == (0, "", "")


@contextmanager
def running_embedded_operator(*options: str) -> Iterator[dict[str, Any]]:
    """The line that `operator` prints, while it runs."""
    with subprocess.Popen(
        [*MODULE, "operator", *options], env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=DEADLINE_S) == ("", "")


def refreshes(line: dict[str, Any], credentials: dict[str, str]) -> bool:
    return bool(BidstreamClient(line["url"], credentials["api_key"], credentials["client_secret"]).refresh().success)


def test_the_operators_api_key_has_the_roles_that_are_named() -> None:
    for options, is_bidder in (
        ([], True),
        (["--role", "mapper", "--role", "Bidder"], True),
        (["--role", "mapper"], False),
        (["--role", "none"], False),
    ):
        with running_embedded_operator(*options) as line:
            assert line.keys() == {"url", "api_key", "client_secret"}
            assert refreshes(line, line) is is_bidder


def test_the_operator_prints_all_its_keys() -> None:
    with running_embedded_operator("--all-keys", "--seed", "3", "--role", "none") as line:
        state = OperatorState(3)
        keys = state.client_side
        assert line["client_side"] == {"subscription_id": keys.subscription_id, "public_key": keys.public_key}
        assert line["other_keys"].keys() == {"generator", "bidder", "mapper", "sharer", "optout", "none"}
        assert [name for name, other in line["other_keys"].items() if refreshes(line, other)] == ["bidder"]
        assert line["api_key"] == state.api_key


def test_the_operator_lists_keys_that_are_not_active_yet() -> None:
    with running_embedded_operator("--seed", "3") as line:
        settings = {f"BIDSTREAM_{name.upper()}": line[name] for name in ("api_key", "client_secret")}
        done = subprocess.run(
            [*MODULE, "request", "--json", line["url"] + "/v2/key/sharing"],
            env=environment({}) | settings,
            input="{}",
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE_S,
        )
        now_s = time.time()
        activates = [key["activates"] for key in json.loads(done.stdout)["body"]["keys"]]
        assert [time_s > now_s for time_s in activates] == [False] * 4 + [True] * 4


def test_no_role_and_a_role_exclude_each_other() -> None:
    command = [*MODULE, "operator", "--role", "none", "--role", "mapper"]
    done = subprocess.run(command, env=environment({}), capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout) == (2, "")
    assert "none excludes all others" in done.stderr


def test_an_address_in_use_is_named(operator: DevOperator) -> None:
    taken = operator.url.removeprefix("http://")
    done = subprocess.run(
        [*MODULE, "serve", "--listen", taken],
        env=environment(operator_settings(operator)),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr == (
        f"bidstream-svc: BIDSTREAM_LISTEN: cannot listen on {taken}: address already in use; another process has it; "
        "choose another with --listen or BIDSTREAM_LISTEN\n"
    )


def test_what_serve_dev_prints_works_when_pasted(tmp_path: Path) -> None:
    # Settings of a real operator in the environment are not what --dev is about.
    cache = tmp_path / "keys"
    cache.write_text("precious")
    real: dict[str, Any] = {
        "operator_url": "https://prod.euid.eu",
        "api_key": "key",
        "client_secret": "secret",
        "listens": "x",
        "key_cache": cache,
    }
    with Sidecar(tmp_path, "serve", "--dev", **real) as sidecar:
        wait_until(lambda: "Ctrl-C" in sidecar.stdout, "the banner")
        printed = sidecar.stdout
        assert sidecar.data in printed
        assert sidecar.admin in printed
        commands = [line for line in printed.splitlines() if line.startswith("curl ")]
        answers = []
        for command in commands:
            done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=DEADLINE_S)
            answers.append(json.loads(done.stdout))
        found = answers.pop(0)["ids"]  # in a bid request
        assert [(each["status"], each["scope"], each["matched"]) for each in found] == [
            ("SUCCESS", "UID2", "site.page"),
            ("SUCCESS", "EUID", None),
        ]
        rewritten = answers.pop(0)["user"]["eids"]
        assert [eid["uids"][0]["id"] for eid in rewritten] == [each["uid"] for each in found]
        assert [answer["status"] for answer in answers] == [
            *("SUCCESS", "EXPIRED_TOKEN", "SUCCESS", "USER_OPTED_OUT"),  # UID2
            *("SUCCESS", "EXPIRED_TOKEN", "SUCCESS", "USER_OPTED_OUT"),  # EUID
        ]
        assert cache.read_text() == "precious"
        assert all(re.fullmatch(r"[\w+/]{43,}=*", answer["uid"]) for answer in (answers[0], answers[2]))
        without_domain = json.loads(shlex.split(commands[4])[-1]) | {"domain": None}
        assert ask(sidecar.data, "/decrypt", without_domain).json["status"] == "DOMAIN_NAME_CHECK_FAILED"
        (warning,) = [line for line in sidecar.log if line["level"] == "warning"]
        assert (warning["variable"], warning["did_you_mean"]) == ("BIDSTREAM_LISTENS", "BIDSTREAM_LISTEN")
        sidecar.signal(signal.SIGINT)
        assert sidecar.process.wait(DEADLINE_S) == 0


def test_serve_dev_prints_what_fits_its_settings(tmp_path: Path) -> None:
    directory = tmp_path / "it's a directory"
    directory.mkdir()
    (directory / "bearer").write_text("kept-secret")
    settings: dict[str, Any] = {"listen": f"unix:{directory}/data.sock", "admin_listen": ""}
    settings["auth_token_file"] = directory / "bearer"
    with Sidecar(tmp_path, "serve", "--dev", **settings) as sidecar:
        wait_until(lambda: "Ctrl-C" in sidecar.stdout, "the banner")
        assert "kept-secret" not in sidecar.stdout
        command = next(line for line in sidecar.stdout.splitlines() if line.startswith("curl "))
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=DEADLINE_S)
        assert {found["status"] for found in json.loads(done.stdout)["ids"]} == {"SUCCESS"}
        assert sidecar.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_whose_parent_closed_the_standard_streams_ends_well(
    operator: DevOperator, tmp_path: Path, workers: int
) -> None:
    program = ("sh", "-c", 'exec "$@" <&- >&-', "sh", *MODULE)
    with Sidecar(tmp_path, program=program, workers=workers, **operator_settings(operator)) as sidecar:
        assert ask(sidecar.data, "/decrypt", {"token": "abcd"}).status == 200
        assert sidecar.stop() == 0


def test_a_command_without_stderr_works(operator: DevOperator) -> None:
    program = ["sh", "-c", 'exec "$@" 2>&-', "sh", *MODULE]
    settings = environment(operator_settings(operator))
    assert subprocess.run([*program, "check", "--online"], check=False, env=settings).returncode == 0
