"""Fixtures for every test, and the tests that need tools.

Tests marked `needs_tools` need tools beyond requirements/dev.txt; only `make deploy-check`, `make console-check` and
`make bulk-check` select them. A missing tool fails such a test if REQUIRE_TOOLS is 1, and skips it otherwise.
"""

import os
import signal
from importlib.util import find_spec
from shutil import which

import pytest
import structlog
from hypothesis import HealthCheck, settings

from bidstream_svc.config import ENV_PREFIX

# Repeatable, and no deadline: nothing timed is a test, and the machine may be busy.
settings.register_profile(
    "tests", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _quiet_log() -> None:
    """Discard log lines of services in threads, which would otherwise appear in the output of other tests."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """Remove settings from the environment of the shell that runs the tests."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _usual_signals() -> None:
    """Let programs that tests start end at SIGHUP and SIGINT, also if a shell runs the tests under nohup."""
    for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)  # before fixtures, which need the tools as well
def pytest_runtest_setup(item: pytest.Item) -> None:
    names = {name for marker in item.iter_markers("needs_tools") for name in marker.args}
    missing = sorted(name for name in names if which(name) is None and find_spec(name) is None)
    if not missing:
        return
    message = f"not installed: {', '.join(missing)}"
    if os.environ.get("REQUIRE_TOOLS") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
