"""The opt-out store in a program with several clients, threads and forks."""

import gc
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybase64
import pytest

from bidstream_svc import OptOuts
from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import FailureReason
from tests.support.optouts import opt_out
from tests.support.sidecar import wait_until

UID2, EUID = IdentityScope
NOW_MS = 1_700_000_000_000
UIDS = [pybase64.b64encode(bytes([number]) * 32).decode() for number in range(4)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "store"
    opt_out(directory, [(UID2, UIDS[0])])
    return directory


def is_opted_out(optouts: OptOuts, uid: str, scope: IdentityScope = UID2) -> bool:
    reason = optouts.check(scope, uid, NOW_MS)
    assert reason in {None, FailureReason.OPTED_OUT}
    return reason is not None


def in_child(function: Callable[[], object]) -> None:
    """Run a function in a forked process, where it must not fail."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            function()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_programmes_are_separate(directory: Path) -> None:
    optouts = OptOuts(str(directory))
    assert is_opted_out(optouts, UIDS[0])
    assert not is_opted_out(optouts, UIDS[0], EUID)
    assert not is_opted_out(optouts, UIDS[1])
    assert repr(optouts) == f"OptOuts('{directory}')"


def test_several_at_a_time_in_a_process(directory: Path) -> None:
    (directory.parent / "link").symlink_to(directory)
    several = [OptOuts(directory), OptOuts(str(directory)), OptOuts(directory.parent / "link")]
    opt_out(directory, [(UID2, UIDS[1])])
    assert all(is_opted_out(optouts, UIDS[1]) for optouts in several)
    del several[0]
    gc.collect()
    opt_out(directory, [(UID2, UIDS[2])])
    assert all(is_opted_out(optouts, UIDS[2]) for optouts in several)


def test_in_forked_processes(directory: Path) -> None:
    optouts, other = OptOuts(directory), OptOuts(directory)
    assert is_opted_out(optouts, UIDS[0])

    def look_up() -> None:
        assert is_opted_out(optouts, UIDS[0])
        assert not is_opted_out(optouts, UIDS[1])
        opt_out(directory, [(UID2, UIDS[1])])
        assert is_opted_out(optouts, UIDS[1])
        assert is_opted_out(other, UIDS[1])
        in_child(lambda: is_opted_out(OptOuts(directory), UIDS[1]))
        assert is_opted_out(optouts, UIDS[1])

    in_child(look_up)
    assert is_opted_out(optouts, UIDS[1])
    opt_out(directory, [(UID2, UIDS[2])])
    assert is_opted_out(other, UIDS[2])


def test_in_processes_that_are_forked_while_threads_look_ids_up(directory: Path) -> None:
    optouts, is_done = OptOuts(directory), threading.Event()

    def look_up() -> None:
        assert is_opted_out(optouts, UIDS[0])
        assert not is_opted_out(optouts, UIDS[1])

    def look_up_until_done() -> None:
        while not is_done.is_set():
            look_up()

    with ThreadPoolExecutor(2) as threads:
        looking = [threads.submit(look_up_until_done) for _ in range(2)]
        try:
            for _ in range(10):
                in_child(look_up)
        finally:
            is_done.set()
        for each in looking:
            each.result()


def test_a_store_that_is_gone_in_a_forked_process(directory: Path) -> None:
    optouts = OptOuts(directory)

    def look_up() -> None:
        (directory / "data.mdb").unlink()
        for uid in UIDS:
            assert optouts.check(UID2, uid, NOW_MS) is FailureReason.OPTOUTS_NOT_SYNCED

    in_child(look_up)


def test_a_store_that_has_gone_is_not_opened_again(directory: Path) -> None:
    optouts = OptOuts(directory)
    (directory / "data.mdb").unlink()
    wait_until(lambda: optouts.check(UID2, UIDS[3], NOW_MS) is not None, "the loss to be seen")
    with pytest.raises(OptOutStoreError, match="No such file"):
        OptOuts(directory)


def test_a_store_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(OptOutStoreError, match="nowhere"):
        OptOuts(tmp_path / "nowhere")


HOST_PROGRAM = """
import logging, sys, time
from pathlib import Path

import bidstream_svc
from bidstream_svc.core.identity import IdentityScope

if sys.argv[2]:
    logging.basicConfig(format="%(name)s: %(message)s")
optouts = bidstream_svc.OptOuts(sys.argv[1])
(Path(sys.argv[1]) / "data.mdb").unlink()
while optouts.check(IdentityScope.UID2, sys.argv[3], 0) is None:
    time.sleep(0.05)
assert "structlog" not in sys.modules
"""


@pytest.mark.parametrize("configured", ["", "configured"])
def test_a_program_gets_no_output_unless_logging_is_configured(directory: Path, configured: str) -> None:
    command = [sys.executable, "-c", HOST_PROGRAM, str(directory), configured, UIDS[3]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    if configured:
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"bidstream_svc.optouts.optout_reader: opt-out store unusable: directory={directory}, ")
    else:
        assert done.stderr == ""
