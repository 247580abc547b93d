"""Light, mixed traffic on a data plane: valid and invalid tokens, batches, bad requests."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, NamedTuple

from bidstream_svc.devoperator import OperatorState
from tests.support.raw_http import Connection
from tests.support.sidecar import DEADLINE_S


class Request(NamedTuple):
    """What to ask, and with which options of `Connection.ask`."""

    path: str
    body: object
    options: Mapping[str, Any]


def mixed_requests(state: OperatorState) -> list[Request]:
    """Mostly good tokens, and one of nearly everything else."""
    good = [{"token": state.mint_token(version)} for version in (2, 3, 4)] * 4
    bad = [
        {"token": state.mint_token(lifetime_s=-60)},
        {"token": state.mint_token(client_side=True), "domain": "example.net"},
        {"token": state.mint_token(master_key=state.make_unlisted_key())},
        {"token": "abcd"},
    ]
    return [
        *(Request("/decrypt", body, {}) for body in [*good, *bad]),
        Request("/decrypt/batch", {"requests": [*good, *bad]}, {}),
        Request("/decrypt", {}, {}),
        Request("/nowhere", None, {"method": "GET"}),
    ]


@contextmanager
def traffic(address: str, requests: list[Request], *, pause_s: float) -> Iterator[None]:
    """Send requests in turn on one connection, with a pause after each, for as long as the context lasts."""
    done = Event()
    failures: list[BaseException] = []

    def send() -> None:
        try:
            with Connection(address) as connection:
                while not done.is_set():
                    for path, body, options in requests:
                        connection.ask(path, body, **options)
                        if done.wait(pause_s):
                            return
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread of the test
            failures.append(error)

    thread = Thread(target=send, name="traffic")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(DEADLINE_S)
    assert failures == [], json.dumps([repr(failure) for failure in failures])
