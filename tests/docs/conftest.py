"""One sidecar and one operator for the samples of all documents."""

import json
import shlex
import signal
from collections.abc import Iterator

import orjson
import pytest

from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.docs.shell import Dev, Place, run_shell
from tests.support.operator import operator_in_thread
from tests.support.sidecar import DEADLINE_S, Sidecar, environment, operator_settings, wait_until


@pytest.fixture(scope="package")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    directory = tmp_path_factory.mktemp("dev")
    with Sidecar(directory, "serve", "--dev", drain_timeout=0) as sidecar:
        wait_until(lambda: "Press Ctrl-C to stop." in sidecar.stdout, "the curl lines")
        line = next(line for line in sidecar.stdout.splitlines() if line.startswith("curl"))
        bid_request = json.loads(shlex.split(line)[-1])
        token = bid_request["user"]["eids"][0]["uids"][0]["id"]
        yield Dev(sidecar, bid_request, token, json.loads(run_shell(line, directory, environment({}))))
        sidecar.signal(signal.SIGINT)
        assert sidecar.process.wait(DEADLINE_S) == 0


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("samples")
    with operator_in_thread() as operator:
        state = operator.state
        (directory / "api-key").write_text(state.api_key)
        (directory / "client-secret").write_text(state.client_secret)
        (directory / "keys.json").write_bytes(orjson.dumps(bidstream_keys(state, {})))
        (directory / "tokens.txt").write_text(f"{state.mint_token(2)}\n{state.mint_token(3)}\n")
        yield Place(directory, environment(operator_settings(operator)), operator)
