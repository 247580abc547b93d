"""The thread behind the synchronous clients: sharing, fork, close, garbage collection, exit."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bidstream_svc.devoperator import DevOperator
from bidstream_svc.sdk import BidstreamClient, TokenGenerateInput, Uid2PublisherClient, background
from tests.support.operator import operator_in_thread

PROGRAM = """
import gc, sys
from bidstream_svc.sdk import BidstreamClient
client = BidstreamClient(*sys.argv[1:])
assert client.refresh().success
"""


@pytest.fixture
def operator() -> Any:
    with operator_in_thread() as operator:
        yield operator


def bidder(operator: DevOperator) -> BidstreamClient:
    return BidstreamClient(operator.url, operator.state.api_key, operator.state.client_secret)


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # for ever if need be: pytest ends a test that hangs, and shows where
        time.sleep(0.005)


def open_transports() -> int:
    assert background._current is not None
    return len(background._current.open_transports)


def test_one_client_in_many_threads(operator: DevOperator) -> None:
    state = operator.state
    threads_before = threading.active_count()
    with bidder(operator) as client, Uid2PublisherClient(operator.url, state.api_key, state.client_secret) as publisher:

        def work(number: int) -> tuple[bool, str | None]:
            refreshed = client.refresh()
            wanted = TokenGenerateInput.from_email(f"user{number}@example.com")
            identity = publisher.generate_token(wanted).get_identity()
            assert identity is not None
            return refreshed.success, client.decrypt_token_into_raw_uid(identity.get_advertising_token(), None).uid

        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(work, range(64)))
    assert results == [(True, state.raw_uid(f"user{number}@example.com")) for number in range(64)]
    assert threading.active_count() <= threads_before + 1


def test_close_ends_the_connections_and_the_next_call_opens_new_ones(operator: DevOperator) -> None:
    client = bidder(operator)
    client.close()  # nothing is open yet
    before = open_transports() if background._current else 0
    assert client.refresh().success
    assert open_transports() == before + 1
    client.close()
    assert open_transports() == before
    assert client.refresh().success
    client.close()


def test_client_that_is_collected_closes_its_connections(operator: DevOperator) -> None:
    client = bidder(operator)
    assert client.refresh().success
    before = open_transports()
    del client
    gc.collect()
    wait_until(lambda: open_transports() == before - 1)


def test_the_end_waits_for_connections_that_are_being_closed() -> None:
    loop, closed = background._BackgroundLoop(), threading.Event()

    class SlowTransport:
        async def __aexit__(self, *_exc_info: object) -> None:
            for _ in range(10_000):  # iterations of the loop
                await asyncio.sleep(0)
            closed.set()

    transport: Any = SlowTransport()
    loop.open_transports.add(transport)
    loop.start_closing(transport)
    loop.stop()
    assert closed.is_set()


def test_forked_child_and_parent_both_go_on(operator: DevOperator) -> None:
    with bidder(operator) as client:
        assert client.refresh().success
        child = os.fork()
        if child == 0:  # no pytest beyond this line
            exit_status = 1
            try:
                signal.alarm(30)
                exit_status = 0 if client.refresh().success and bidder(operator).refresh().success else 2
            finally:
                os._exit(exit_status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.refresh().success
        client.close()
        assert client.refresh().success


def test_call_from_inside_the_loop_is_refused_instead_of_hanging(operator: DevOperator) -> None:
    loop = background._get_loop()

    async def call() -> None:
        nothing = noop()
        try:
            loop.run(nothing)
        finally:
            nothing.close()

    async def noop() -> None:
        pass

    with pytest.raises(RuntimeError, match="from inside one of its own callbacks"):
        loop.run(call())


def test_interrupted_call_does_not_go_on(operator: DevOperator) -> None:
    started, interrupted, ended = threading.Event(), threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.Future()
        finally:
            ended.set()

    main = threading.get_ident()

    def raise_once(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        started.wait()
        wait_until(lambda: sys._current_frames()[main].f_code is threading.Condition.wait.__code__)
        # Again and again: a signal that comes just before the thread blocks does not wake it.
        while not interrupted.is_set():
            signal.pthread_kill(main, signal.SIGINT)
            interrupted.wait(0.05)

    old_handler = signal.signal(signal.SIGINT, raise_once)
    interrupter = threading.Thread(target=interrupt)
    try:
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            background._get_loop().run(wait())
        interrupter.join()
    finally:
        signal.signal(signal.SIGINT, old_handler)
    ended.wait()


@pytest.mark.parametrize("ending", ["", "client.close()", "del client; gc.collect()", "sys.exit()"])
def test_program_ends_without_a_warning(operator: DevOperator, ending: str) -> None:
    # Without -X dev: asyncio's debug mode warns of each callback that takes 0.1 s, as happens on a busy machine.
    state = operator.state
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM + ending, operator.url, state.api_key, state.client_secret],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
