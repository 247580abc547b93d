"""The plane of a relay: the key endpoints of an operator, answered from what the relay holds.

An answer of megabytes is encrypted in parts while it is sent, so that one takes little memory and no part blocks the
loop for long. Few are sent at a time, and further requests wait for their turn; see MAX_ANSWERS.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.crypto import GCM_IV_LENGTH, Envelope, seal_response_in_parts
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import RELAY_REQUESTS, RelayResult
from bidstream_svc.operator.key_fetch import KEY_ENDPOINTS, read_age
from bidstream_svc.operator.refusals import RequestRefusedError, unauthorized
from bidstream_svc.operator.relay_path import read_relays, via_of
from bidstream_svc.operator.request_envelopes import BINARY, TEXT, api_key_of, is_binary, open_envelope
from bidstream_svc.relay.relay_credentials import RelayCredentials
from bidstream_svc.relay.relay_keys import RelayKeys
from bidstream_svc.server.answers import error_answer
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.page_connection import Answering, PageConnection, Shared
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.pages import Page, PageRequest, StreamedPage
from bidstream_svc.server.turns import Turns

# How many answers are sent at a time. With few, the first ones are complete early, whatever the network can do.
MAX_ANSWERS = 32
# How long a request waits for its turn. A sidecar waits for 10 s.
_MAX_WAIT_S = 4.0
# How long a client may take to read an answer. A sidecar gives up after 30 s.
_MAX_SENDING_S = 30.0
_MAX_BODY_BYTES = 16 * 1024  # a request has 80
_RETRY_AFTER_S = 5
_PURPOSES = {endpoint.path: purpose for purpose, endpoint in KEY_ENDPOINTS.items()}
_METHOD = "POST"
_NOT_FOUND = error_answer(404, "not_found", "a relay has /v2/key/bidstream and /v2/key/sharing")
_WRONG_METHOD = error_answer(405, "method_not_allowed", "use POST")
_NO_KEYS = RequestRefusedError(503, "unavailable", "the relay has no keys")
_LOOP = RequestRefusedError(
    508, "loop_detected", "the request has come from this relay itself: check its operator's URL"
)
_BUSY = RequestRefusedError(429, "too_many_requests", "the relay has too many requests")


class RelayProgramme(NamedTuple):
    """What a relay has of one programme."""

    credentials: RelayCredentials
    keys: Mapping[KeyPurpose, RelayKeys]


class RelayPlane:
    """Answers requests for keys.

    Args:
        programmes: those that the relay serves.
        name: of the relay.
        metrics: counts requests.
        connections: the connections of the plane.
        max_answers: how many answers are sent at a time.
        max_wait_s: how long a request waits for its turn.

    Attributes:
        is_draining: once True, every answer closes its connection.
    """

    def __init__(
        self,
        programmes: Sequence[RelayProgramme],
        name: str,
        metrics: MetricCells,
        connections: PageConnections,
        *,
        max_answers: int = MAX_ANSWERS,
        max_wait_s: float = _MAX_WAIT_S,
    ) -> None:
        self.is_draining = False
        self._programmes = programmes
        self._name = name
        self._metrics = metrics
        self._sending = asyncio.Semaphore(max_answers)
        self._max_wait_s = max_wait_s
        self._turns = Turns()
        self._shared = Shared(
            connections,
            self._answer,
            self._turns,
            is_draining=lambda: self.is_draining,
            max_body_bytes=lambda request: _MAX_BODY_BYTES if request.path in _PURPOSES else 0,
        )

    def connect(self, hosts: HostCheck) -> PageConnection:
        """Return a protocol for a new connection; `hosts` checks its `Host` headers."""
        return PageConnection(self._shared, hosts)

    def _answer(self, request: PageRequest) -> Answering:
        purpose = _PURPOSES.get(request.path)
        if purpose is None:
            return self._refuse(RelayResult.REFUSED, Page(*_NOT_FOUND[:2]))
        if request.method != _METHOD:
            return self._refuse(RelayResult.REFUSED, Page(*_WRONG_METHOD[:2], headers=[f"Allow: {_METHOD}"]))
        if self._name in read_relays(", ".join(request.fields.get(b"via", ()))):
            return self._refuse(RelayResult.REFUSED, _page_of(_LOOP))
        binary = is_binary(_field(request, b"content-type"), request.body)
        try:
            programme = self._programme_of(request)
            keys = programme.keys[purpose]
            secret = programme.credentials.current.client_secret
            scope = keys.store.scope or IdentityScope.UID2
            envelope = open_envelope(request.body, secret, scope, wall_clock_ms(), binary=binary)
        except RequestRefusedError as error:
            is_known = error.http_status != HTTPStatus.UNAUTHORIZED
            return self._refuse(RelayResult.REFUSED if is_known else RelayResult.UNAUTHORIZED, _page_of(error))
        max_age_s = read_age(_field(request, b"cache-control") or "")
        return self._answer_keys(keys, secret, envelope.nonce, max_age_s, binary=binary)

    def _programme_of(self, request: PageRequest) -> RelayProgramme:
        """Return the programme that the API key of a request belongs to.

        Raises:
            RequestRefusedError: 401.
        """
        api_key = api_key_of(request.authorization) or ""
        for programme in self._programmes:
            if programme.credentials.matches(api_key):
                return programme
        raise unauthorized()

    async def _answer_keys(
        self, keys: RelayKeys, secret: bytes, nonce: bytes, max_age_s: float | None, *, binary: bool
    ) -> Page | StreamedPage:
        try:
            held = await keys.get(max_age_s)
        except RequestRefusedError as error:
            return self._refuse(RelayResult.UNAUTHORIZED, _page_of(error))
        if held is None:
            return self._refuse(RelayResult.NO_KEYS, _page_of(_NO_KEYS, _RETRY_AFTER_S))
        if not await self._wait_to_send():
            return self._refuse(RelayResult.OVERLOADED, _page_of(_BUSY, _RETRY_AFTER_S))
        content = Envelope(wall_clock_ms(), nonce, held.json)
        size, parts = seal_response_in_parts(secret, os.urandom(GCM_IV_LENGTH), content, binary=binary)
        content_type = BINARY if binary else TEXT
        headers = (f"Via: {via_of((*held.relays, self._name))}", f"Age: {held.age_s}")
        return StreamedPage(self._send(parts), size, content_type, headers, timeout_s=_MAX_SENDING_S)

    async def _wait_to_send(self) -> bool:
        """Wait until an answer may be sent. Returns whether it may."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_wait_s):
                return await self._sending.acquire()
        return False

    async def _send(self, parts: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
        try:
            for part in parts:
                yield part
                await self._turns.wait()
            self._metrics.add(RELAY_REQUESTS[RelayResult.SUCCESS])
        finally:
            self._sending.release()

    def _refuse(self, result: RelayResult, page: Page) -> Page:
        self._metrics.add(RELAY_REQUESTS[result])
        return page


def _page_of(error: RequestRefusedError, retry_after_s: int | None = None) -> Page:
    headers = [] if retry_after_s is None else [f"Retry-After: {retry_after_s}"]
    return Page(error.http_status, error.json, headers=headers)


def _field(request: PageRequest, name: bytes) -> str | None:
    """Return a header that is sent once; None if it is absent."""
    values = request.fields.get(name, ())
    return values[0] if len(values) == 1 else None
