"""The sender finds nothing to complain about in our own receiver, and all that it sent is in the store."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_records import scope_of_raw_id
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.sender import made_up_entries
from tests.support.sidecar import DEADLINE_S, PROGRAM, environment, wait_until

COUNT = 40


@contextmanager
def receiver(directory: Path, **settings: object) -> Iterator[str]:
    """Run `optouts serve` with a store in the directory; its URL."""
    log = directory / "log"
    settings |= {"optout_store": directory / "store", "optout_listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}
    with log.open("wb") as stderr:
        process = subprocess.Popen([*PROGRAM, "optouts", "serve"], env=environment(settings), stderr=stderr)

    def addresses() -> list[str]:
        events = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        return [address for event in events for address in event.get("webhook", [])]

    try:
        wait_until(lambda: addresses() or process.poll() is not None, "the receiver to listen")
        yield f"http://{addresses()[0]}/optout"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def send(*args: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "optouts", "send", "--count", str(COUNT), "--slow", "20", *args]
    return subprocess.run(
        command, env=environment(settings), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def stored(directory: Path, scope: IdentityScope) -> int:
    with OptOutStore(directory / "store") as store:
        entries = [*made_up_entries(COUNT, scope, 0, 0)]
        assert all(store.contains(scope_of_raw_id(entry.raw_id) or scope, entry.raw_id) for entry in entries)
        return store.count(scope)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_to_complain_about(tmp_path: Path, method: str) -> None:
    (tmp_path / "token").write_text("a-token")
    token = {"optout_auth_token_file": tmp_path / "token"}
    with receiver(tmp_path, **token) as url:
        options = ("--method", method, "--duplicates", "10", "--replays", "1")
        for scope, path in ((IdentityScope.UID2, url), (IdentityScope.EUID, f"{url}/euid")):
            sent = send(*options, "--scope", scope.name, path, **token)
            assert (sent.returncode, sent.stderr) == (0, "")
            assert sent.stdout.endswith("nothing to complain about\n")
    assert [stored(tmp_path, scope) for scope in IdentityScope] == [COUNT, COUNT]


def test_load(tmp_path: Path) -> None:
    with receiver(tmp_path) as url:
        sent = send("--concurrency", "16", "--no-h2c", url)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert stored(tmp_path, IdentityScope.UID2) == COUNT


def test_a_wrong_bearer_token_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token")
    with receiver(tmp_path, optout_auth_token_file=tmp_path / "token") as url:
        sent = send("--json", url)
    assert sent.returncode == 1
    assert [fault["fault"] for fault in json.loads(sent.stdout)["faults"]] == ["unauthorized"]
    with OptOutStore(tmp_path / "store") as store:
        assert store.count() == 0
