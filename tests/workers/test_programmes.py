"""Both programmes with several workers: what one of them has fetched is there for its successor, of each programme."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import Fault, OperatorState
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.processes import children
from tests.support.raw_http import ask
from tests.support.sidecar import Sidecar, programme_settings, wait_until

WORKERS = 2


def test_a_restarted_worker_has_the_keys_of_both(tmp_path: Path) -> None:
    with ExitStack() as stack:
        operators = [
            stack.enter_context(operator_in_thread(OperatorState(seed=scope, scope=scope))) for scope in IdentityScope
        ]
        sidecar = stack.enter_context(Sidecar(tmp_path, workers=WORKERS, **programme_settings(operators)))

        def keys_of_all(page_name: str = "bidstream_keys") -> bool:
            page = scrape(sidecar.admin)
            return all(page.total(page_name, scope=scope.name) > 0 for scope in IdentityScope)

        wait_until(keys_of_all, "the keys of both")
        for operator in operators:
            operator.state.faults.inject(Fault.SERVER_ERROR, times=None)
        for worker in children(sidecar.process.pid):
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: scrape(sidecar.admin).value("bidstream_worker_restarts_total") == WORKERS, "restarts")
        wait_until(keys_of_all, "the keys that were left")
        for operator in operators:
            answer = ask(sidecar.data, "/decrypt", {"token": operator.state.mint_token(2)})
            assert answer.json["uid"] == operator.state.raw_uid("someone@example.com")
        assert sidecar.stop() == 0
