"""A relay as a real process, its operator, and sidecars behind it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pybase64

from bidstream_svc.core.crypto import Envelope, open_response, seal_request
from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.metrics_page import scrape
from tests.support.raw_http import Response, ask
from tests.support.sidecar import Sidecar, operator_settings, wait_until

KEYS, SHARING = "/v2/key/bidstream", "/v2/key/sharing"


def relay_settings(operator: DevOperator) -> dict[str, Any]:
    return operator_settings(operator)


def behind(relay: Sidecar, settings: dict[str, Any], scheme: str = "http") -> dict[str, Any]:
    """The settings of a sidecar, or of another client, that has the relay in place of its operators."""
    return settings | {name: f"{scheme}://{relay.data}" for name in settings if name.endswith("operator_url")}


@contextmanager
def running(directory: Path, *args: str, **settings: Any) -> Iterator[Sidecar]:
    directory.mkdir(exist_ok=True)
    with Sidecar(directory, *args, **settings) as process:
        yield process.wait_started()


@contextmanager
def relay(directory: Path, **settings: Any) -> Iterator[Sidecar]:
    with running(directory / "relay", "relay", **settings) as process:
        yield process


@contextmanager
def sidecar(directory: Path, name: str = "sidecar", **settings: Any) -> Iterator[Sidecar]:
    with running(directory / name, **settings) as process:
        yield process


class Question:
    """A request for keys as a client seals it.

    Args:
        state: its credentials are used.
        age_s: how old the request is, in seconds.
        binary: whether it is sent without base64.
    """

    def __init__(self, state: OperatorState, *, age_s: float = 0, binary: bool = False) -> None:
        self.secret = pybase64.b64decode(state.client_secret)
        self.api_key = state.api_key
        self.binary = binary
        self.nonce = os.urandom(8)
        envelope = Envelope(time.time_ns() // 1_000_000 - round(age_s * 1000), self.nonce, b"")
        self.wire = seal_request(self.secret, os.urandom(12), envelope, binary=binary)

    def headers(self, **more: str) -> dict[str, str]:
        media_type = "application/octet-stream" if self.binary else "text/plain"
        return {"Authorization": f"Bearer {self.api_key}", "Content-Type": media_type} | {
            name.replace("_", "-"): text for name, text in more.items()
        }

    def post(self, relay: Sidecar, path: str = KEYS, **more: str) -> Response:
        return ask(relay.data, path, self.wire, headers=self.headers(**more))

    def read(self, response: Response) -> Any:
        """The JSON of a good answer."""
        assert response.status == 200, response.body
        return orjson.loads(open_response(self.secret, response.body, self.nonce, binary=self.binary).body)


def key_ids(answer: Any) -> set[int]:
    return {key["id"] for key in answer["body"]["keys"]}


def verdict(process: Sidecar, token: str, domain: str | None = None) -> Any:
    response = ask(process.data, "/decrypt", {"token": token, "domain": domain})
    assert response.status == 200, response.body
    return response.json


def wait_for_success(process: Sidecar, token: str) -> None:
    wait_until(lambda: verdict(process, token)["status"] == "SUCCESS", "the new key")


def relayed(relay: Sidecar, result: str) -> float:
    return scrape(relay.admin).total("bidstream_relay_requests_total", result=result)
