"""What the library does to the program that imports it: nothing global, and no output unless logging is configured."""

import subprocess
import sys
from typing import Any

import pytest

from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from tests.support.operator import operator_in_thread

# In a process of its own, because pytest has changed much of this.
PROGRAM = """
import asyncio, faulthandler, gc, locale, logging, os, random, resource, signal, socket, sys, threading, warnings

def state():
    return {
        "output": (sys.stdout, sys.stderr, sys.displayhook),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace(), sys.getprofile()),
        "interpreter": (sys.getswitchinterval(), sys.getrecursionlimit(), sys.meta_path[:], faulthandler.is_enabled()),
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), gc.callbacks[:]),
        "warnings": (warnings.filters[:], warnings.showwarning),
        "root logger": (logging.root.level, logging.root.handlers[:], logging.root.filters[:], logging.lastResort),
        "logging": (logging.getLoggerClass(), logging.getLogRecordFactory(), logging.raiseExceptions),
        "levels": (logging.root.manager.disable, *(logging.getLogger(name).level for name in ("aiohttp", "asyncio"))),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "signal mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "limits": [resource.getrlimit(limit) for limit in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE)],
        "environment": (dict(os.environ), os.getcwd(), locale.setlocale(locale.LC_ALL), os.umask(os.umask(0o77))),
        "random": random.getstate(),
        "sockets": socket.getdefaulttimeout(),
        "asyncio": type(asyncio.get_event_loop_policy()),
    }

asyncio.get_event_loop_policy()
before, threads = state(), threading.enumerate()

def check(when):
    after = state()
    assert after == before, (when, [name for name in before if after[name] != before[name]])

import bidstream_svc, bidstream_svc.sdk
assert {*bidstream_svc.__all__} <= {*dir(bidstream_svc)}, "names that have not been imported"
for name in bidstream_svc.__all__:
    getattr(bidstream_svc, name)
assert threading.enumerate() == threads
check("after the import")

_, url, api_key, client_secret, configured = sys.argv
if configured:
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    before = state()
retry = bidstream_svc.RetryPolicy(attempts=3, wait_initial_s=0.001, wait_max_s=0.01, wait_jitter_s=0.001)
with bidstream_svc.sdk.BidstreamClient(url, api_key, client_secret, retry=retry) as client:
    assert client.refresh().success
    check("after a refresh")
with bidstream_svc.sdk.SharingClient(url, "wrong", client_secret, retry=retry) as client:
    assert not client.refresh().success
check("after a refused refresh")
for module in ("structlog", "uvloop", "prometheus_client", "click"):
    assert module not in sys.modules, module
"""


@pytest.fixture(scope="module")
def operator() -> Any:
    with operator_in_thread(OperatorState(seed=1)) as running:
        yield running


@pytest.mark.parametrize("configured", ["", "configured"])
def test_a_program_that_imports_the_library_and_meets_failures(operator: DevOperator, configured: str) -> None:
    operator.state.calls.clear()
    operator.state.faults.inject(Fault.SERVER_ERROR, path="/v2/key/bidstream", times=2)
    state = operator.state
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", PROGRAM, operator.url, state.api_key, state.client_secret, configured],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert state.calls["/v2/key/bidstream"] == 3
    lines = done.stderr.splitlines()
    assert len(lines) == (2 if configured else 0), done.stderr
    assert all(
        line.startswith("bidstream_svc.operator.transport: call of /v2/key/bidstream failed (OperatorHttpError)")
        for line in lines
    )
