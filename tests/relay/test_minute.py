"""A key that is rotated within the minute in which a relay does not ask its operator again. The minute is 6 s here."""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.relay.fleet import KEYS, behind, relayed, running, verdict, wait_for_success
from tests.support.operator import operator_in_thread
from tests.support.sidecar import Sidecar, operator_settings, wait_until

_PROGRAM = """
from bidstream_svc.cli.commands import main
from bidstream_svc.keystore import early_refreshes

early_refreshes.MIN_EARLY_REFRESH_INTERVAL_S = 6.0
main()
"""


@pytest.mark.parametrize("relays", [1, 2])
def test_a_host_comes_again_when_the_relay_may_ask(tmp_path: Path, relays: int) -> None:
    program = (sys.executable, "-c", _PROGRAM)
    with ExitStack() as stack:
        operator = stack.enter_context(operator_in_thread())
        settings = operator_settings(operator)
        chain: list[Sidecar] = []
        for place in range(relays):
            chain.append(stack.enter_context(running(tmp_path / f"{place}", "relay", program=program, **settings)))
            settings = behind(chain[-1], settings)
        relaying = chain[-1]
        process = stack.enter_context(running(tmp_path / "sidecar", program=program, **settings))
        process.signal(signal.SIGHUP)
        wait_until(lambda: operator.state.calls[KEYS] == 2, "the one question of this minute")
        wait_until(lambda: relayed(relaying, "success") == 2, "its answer")
        operator.state.rotate_keys()
        token = operator.state.mint_token()
        assert verdict(process, token)["status"] == "NOT_AUTHORIZED_FOR_KEY"
        wait_until(lambda: relayed(relaying, "success") == 3, "an answer with the old keys")
        assert operator.state.calls[KEYS] == 2
        wait_for_success(process, token)
        assert operator.state.calls[KEYS] == 3
        assert relayed(relaying, "success") == 4  # and not a minute later
