"""Fixtures for every test."""

import os

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
