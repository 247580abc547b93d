"""One connection pool to one operator: sends what `messages` builds, and repeats it where that does no harm."""

import os
import random
import ssl
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple, Self

import aiohttp
import stamina

from bidstream_svc._version import __version__
from bidstream_svc.addresses import check_base_url
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.crypto import GCM_IV_LENGTH, NONCE_LENGTH
from bidstream_svc.core.errors import (
    OperatorHttpError,
    OperatorNetworkError,
    OperatorOversizeError,
    OperatorRateLimitedError,
)
from bidstream_svc.operator.credentials import Credentials
from bidstream_svc.operator.messages import (
    Endpoint,
    HttpAnswer,
    OperatorRequest,
    build_plain_request,
    build_request,
    read_answer,
    read_plain_answer,
)
from bidstream_svc.operator.network_errors import explain_network_error

MAX_ANSWER_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_ABANDONED: list[object] = []  # kept for ever: what is collected would be closed


class RetryPolicy(NamedTuple):
    """How often and how patiently a call is repeated.

    Attributes:
        attempts: calls in all; 1 never repeats.
        timeout_s: no further attempt begins after so many seconds.
        wait_initial_s, wait_max_s: the wait doubles from the one to the other.
        wait_jitter_s: up to so many seconds, drawn anew each time, are added to a wait.
    """

    attempts: int = 4
    timeout_s: float = 30.0
    wait_initial_s: float = 0.25
    wait_max_s: float = 5.0
    wait_jitter_s: float = 1.0


class Answer(NamedTuple):
    """An opened answer: its JSON, and the body of the HTTP answer exactly as received."""

    json: bytes
    wire: bytes

    def __repr__(self) -> str:
        """Sizes only."""
        return f"Answer({len(self.json)} bytes of JSON)"


class OperatorTransport:
    """Calls an operator; an asynchronous context manager that holds one aiohttp session while entered.

    Args:
        base_url: such as `https://prod.euid.eu`; plain http only to loopback unless `allow_insecure`.
        credentials: or a function that returns them, called for every attempt, so that a rotated secret is picked up.
        connect_timeout_s: for a connection to stand.
        read_timeout_s: between two reads.
        total_timeout_s: for one attempt in all.
        ssl: a context to verify the operator with; by default the system's certificates.
        allow_insecure: plain http to any host.
        retry: how often a call is repeated after 429, 5xx and network errors.
        max_answer_bytes: larger answers are refused while they arrive.

    Raises:
        ConfigurationError: the base URL will not do.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Callable[[], Credentials] | Credentials,
        *,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 10.0,
        total_timeout_s: float = 30.0,
        ssl: ssl.SSLContext | None = None,
        allow_insecure: bool = False,
        retry: RetryPolicy | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self.base_url = check_base_url(base_url, allow_insecure=allow_insecure)
        self._credentials = credentials
        self._timeout = aiohttp.ClientTimeout(
            total=total_timeout_s, connect=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        )
        self._ssl = True if ssl is None else ssl
        self._retry = retry or RetryPolicy()
        self._max_answer_bytes = max_answer_bytes
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        """Where to, nothing secret."""
        return f"OperatorTransport({self.base_url!r})"

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(ssl=self._ssl),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Sealed bytes hardly shrink; without compression the cap on an answer is a cap on memory.
            headers={"User-Agent": f"bidstream-svc/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def is_open(self) -> bool:
        """Whether it is entered."""
        return self._session is not None

    def abandon(self) -> None:
        """Forget the session without closing it: in a forked child, its connections belong to the parent."""
        _ABANDONED.append(self._session)
        self._session = None

    async def call(self, endpoint: Endpoint, payload: bytes = b"") -> Answer:
        """Seal `payload` (JSON in UTF-8, or nothing), post it, open the answer.

        Every attempt is sealed anew: an operator refuses an old timestamp, and no iv is used twice.

        Raises:
            OperatorError, EnvelopeError: see `errors`; after the last attempt, the error of that one.
        """

        def build() -> OperatorRequest:
            source = self._credentials
            credentials = source if isinstance(source, Credentials) else source()
            now_ms = wall_clock_ms()
            nonce, iv = os.urandom(NONCE_LENGTH), os.urandom(GCM_IV_LENGTH)
            return build_request(endpoint, payload, credentials, now_ms=now_ms, nonce=nonce, iv=iv)

        return await self._repeat(endpoint, build, read_answer)

    async def call_plain(self, endpoint: Endpoint, body: bytes, secret: bytes) -> Answer:
        """Post `body` as it is, without a bearer; open the answer with `secret`. Raises as `call` does."""

        def build() -> OperatorRequest:
            return build_plain_request(endpoint, body, secret)

        return await self._repeat(endpoint, build, read_plain_answer)

    async def _repeat(
        self,
        endpoint: Endpoint,
        build: Callable[[], OperatorRequest],
        read: Callable[[HttpAnswer, OperatorRequest], bytes],
    ) -> Answer:
        retry = self._retry
        # The context, not the decorator: stamina logs the arguments of a decorated function.
        async for attempt in stamina.retry_context(
            on=lambda error: self._wait_before_repeating(endpoint, error),
            attempts=retry.attempts,
            timeout=retry.timeout_s,
            wait_initial=retry.wait_initial_s,
            wait_max=retry.wait_max_s,
            wait_jitter=retry.wait_jitter_s,
        ):
            with attempt:
                request = build()
                answer = await self.post(request)
                return Answer(read(answer, request), answer.body)
        raise AssertionError("stamina either returns or raises")  # pragma: no cover

    def _wait_before_repeating(self, endpoint: Endpoint, error: Exception) -> bool | float:
        """Whether to repeat after `error`; a number is the seconds to wait, where the operator asked for a pause."""
        match error:
            case OperatorRateLimitedError(retry_after_s=float(wait_s)):
                # Capped: a wrong header must not put a caller to sleep for a day.
                return min(wait_s, self._retry.wait_max_s) + random.uniform(0, self._retry.wait_jitter_s)  # noqa: S311 - no secret
            case OperatorRateLimitedError():
                return True
            case OperatorHttpError():
                return endpoint.is_repeatable and error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR
            case OperatorOversizeError():
                return False
            case OperatorNetworkError():
                return endpoint.is_repeatable or not error.may_have_arrived
        return False

    async def post(self, request: OperatorRequest) -> HttpAnswer:
        """Post once and bring back whatever the answer is, unread; raises OperatorNetworkError if there is none."""
        if self._session is None:
            raise RuntimeError("the transport is not entered: use `async with`")
        try:
            async with self._session.post(
                self.base_url + request.endpoint.path,
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
            ) as response:
                body = await self._read_body(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Not chained: aiohttp's exceptions carry the request's headers, and so the API key.
            raise explain_network_error(error) from None
        headers = response.headers
        content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return HttpAnswer(response.status, content_type, body, headers.get("Retry-After"))

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes:
        if (response.content_length or 0) > self._max_answer_bytes:
            raise self._oversize()
        chunks, received = [], 0
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            chunks.append(chunk)
            received += len(chunk)
            if received > self._max_answer_bytes:
                raise self._oversize()
        return b"".join(chunks)

    def _oversize(self) -> OperatorOversizeError:
        return OperatorOversizeError(f"operator's answer is larger than {self._max_answer_bytes} bytes")
