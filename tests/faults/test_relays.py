"""Hosts behind two relays answer rightly while the operator and relays fail and keys are rotated."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.relays import Plan, trial
from tests.support.processes import children, ended
from tests.support.sidecar import DEADLINE_S, wait_until


def test_hosts_behind_relays_answer_rightly_throughout(tmp_path: Path) -> None:
    # Refreshes come often, so that nobody has to wait for the one early refresh a minute.
    plan = Plan(hosts=2, steady_s=0.5, outage_s=2.0, relay_down_s=1.0, interval_s=5.0)
    with trial(plan, tmp_path) as running:
        for part in running.play():
            assert part.is_good, f"{part.name}: {part.counts}"
            if part.level_s is not None:
                assert part.asked > 0, part.name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_trial_that_is_ended_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    kept = tmp_path / "new" / "kept"
    command = [sys.executable, "-m", "tests.faults.relays", "--hosts", "1", "--keep", str(kept)]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(path.stat().st_size for path in kept.glob("*-host/stderr")), "relays and a host")
        started = children(program.pid)
        assert len(started) == 3
        program.send_signal(number)
        assert program.wait(DEADLINE_S) != 0
    finally:
        program.kill()
    assert all(ended(pid) for pid in started)
