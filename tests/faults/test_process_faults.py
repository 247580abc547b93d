"""Requests get correct answers during faults of the process, disk, clock and clients."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.clock import try_clock_jumps
from tests.faults.outcome import QUICK, Effort, Outcome
from tests.faults.processes import PROCESS_FAULTS
from tests.faults.restarts import RESTARTS
from tests.faults.slow_clients import SLOW_CLIENTS

ATTEMPTS = (*PROCESS_FAULTS, *RESTARTS, *SLOW_CLIENTS, try_clock_jumps)


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.__name__)
def test_requests_are_answered(attempt: Callable[[Path, Effort], Outcome], tmp_path: Path) -> None:
    attempt(tmp_path, QUICK).check()
