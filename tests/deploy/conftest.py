"""Checks of deploy/ need tools beyond requirements/dev.txt; a missing one skips, or fails if REQUIRE_TOOLS=1."""

import os
from importlib.util import find_spec
from shutil import which

import pytest


@pytest.hookimpl(tryfirst=True)  # before fixtures, which need the tools as well
def pytest_runtest_setup(item: pytest.Item) -> None:
    names = {name for marker in item.iter_markers("needs_tools") for name in marker.args}
    missing = sorted(name for name in names if which(name) is None and find_spec(name) is None)
    if not missing:
        return
    message = f"not installed: {', '.join(missing)}; see make deploy-check"
    if os.environ.get("REQUIRE_TOOLS") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
