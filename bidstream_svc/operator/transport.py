"""A connection pool to an operator: posts what `messages` builds, and retries where that is safe."""

import functools
import logging
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from io import BytesIO
from types import TracebackType
from typing import NamedTuple, Self

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay

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
TOTAL_TIMEOUT_S = 30.0
_CHUNK_BYTES = 256 * 1024
_log = logging.getLogger(__name__)
_random = random.SystemRandom()  # the module's own generator belongs to the program, which may have seeded it
_ABANDONED: list[object] = []  # never collected: a collected session would be closed


class RetryPolicy(NamedTuple):
    """How a call is retried.

    Attributes:
        attempts: maximum number of attempts; 1 for no retry.
        timeout_s: no attempt begins after this many seconds.
        wait_initial_s, wait_max_s: first and longest wait; it doubles each time.
        wait_jitter_s: a random number of seconds up to this is added to each wait.
    """

    attempts: int = 4
    timeout_s: float = 30.0
    wait_initial_s: float = 0.25
    wait_max_s: float = 5.0
    wait_jitter_s: float = 1.0


class Answer(NamedTuple):
    """A decrypted answer.

    Attributes:
        json: its JSON.
        wire: the HTTP body exactly as received.
        age, via, begun_s: as in HttpAnswer.
    """

    json: bytes
    wire: bytes
    age: str | None = None
    via: str = ""
    begun_s: float = 0.0

    def __repr__(self) -> str:
        """Show the size only."""
        return f"Answer({len(self.json)} bytes of JSON)"


class OperatorTransport:
    """Calls an operator. An asynchronous context manager that owns an aiohttp session while entered.

    Args:
        base_url: such as `https://prod.euid.eu`; plain http only to loopback unless `allow_insecure`.
        credentials: credentials, or a function that returns them and is called for every attempt.
        connect_timeout_s: limit for making a connection.
        read_timeout_s: limit between two reads.
        total_timeout_s: limit for one attempt.
        ssl: context that verifies the operator; by default with the system's certificates.
        allow_insecure: allow plain http to any host.
        retry: how calls are retried after 429, 5xx and network errors.
        max_answer_bytes: limit for the body of an answer.

    Raises:
        ConfigurationError: the base URL is not accepted.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Callable[[], Credentials] | Credentials,
        *,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 10.0,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
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
        """Show the base URL only."""
        return f"OperatorTransport({self.base_url!r})"

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(ssl=self._ssl),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Encrypted data hardly compresses, and without compression `max_answer_bytes` limits memory.
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
        """Whether the session is open."""
        return self._session is not None

    def abandon(self) -> None:
        """Drop the session without closing it: in a forked child, its connections belong to the parent."""
        _ABANDONED.append(self._session)
        self._session = None

    async def call(
        self, endpoint: Endpoint, payload: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Encrypt `payload` (JSON in UTF-8, or empty), post it, and decrypt the answer.

        Every attempt is encrypted again: operators refuse old timestamps, and an iv must not be reused.

        Args:
            endpoint: where to post it.
            payload: see above.
            headers: further HTTP headers.

        Raises:
            OperatorError, EnvelopeError: the error of the last attempt.
        """

        def build() -> OperatorRequest:
            now_ms = wall_clock_ms()
            nonce, iv = os.urandom(NONCE_LENGTH), os.urandom(GCM_IV_LENGTH)
            request = build_request(endpoint, payload, self._read_credentials(), now_ms=now_ms, nonce=nonce, iv=iv)
            request.headers.update(headers or {})
            return request

        return await self._call_with_retries(endpoint, build, read_answer)

    async def call_plain(self, endpoint: Endpoint, body: bytes, secret: bytes) -> Answer:
        """Post `body` unencrypted, and decrypt the answer with `secret`.

        Raises:
            OperatorError, EnvelopeError: the error of the last attempt.
        """

        def build() -> OperatorRequest:
            return build_plain_request(endpoint, body, secret, self._read_credentials())

        return await self._call_with_retries(endpoint, build, read_plain_answer)

    def _read_credentials(self) -> Credentials:
        source = self._credentials
        return source if isinstance(source, Credentials) else source()

    async def _call_with_retries(
        self,
        endpoint: Endpoint,
        build: Callable[[], OperatorRequest],
        read: Callable[[HttpAnswer, OperatorRequest], bytes],
    ) -> Answer:
        retry = self._retry
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: self._should_retry(endpoint, error)),
            stop=stop_after_attempt(retry.attempts) | stop_before_delay(retry.timeout_s),
            wait=self._wait_s,
            before_sleep=functools.partial(_log_retry, endpoint),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                request = build()
                answer = await self.post(request)
                return Answer(read(answer, request), answer.body, answer.age, answer.via, answer.begun_s)
        raise AssertionError("tenacity either returns or raises")  # pragma: no cover

    def _should_retry(self, endpoint: Endpoint, error: BaseException) -> bool:
        match error:
            case OperatorRateLimitedError():
                return True
            case OperatorHttpError():
                return endpoint.is_retryable and error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR
            case OperatorOversizeError():
                return False
            case OperatorNetworkError():
                return endpoint.is_retryable or not error.may_have_arrived
        return False

    def _wait_s(self, state: RetryCallState) -> float:
        """Return the seconds to wait after a failed attempt: what the operator asked for, or twice the last wait."""
        retry = self._retry
        jitter_s = _random.uniform(0, retry.wait_jitter_s)
        error = None if state.outcome is None else state.outcome.exception()
        if isinstance(error, OperatorRateLimitedError) and error.retry_after_s is not None:
            # Capped: a wrong header must not block the caller for a day.
            return min(error.retry_after_s, retry.wait_max_s) + jitter_s
        backoff_s = retry.wait_initial_s * 2.0 ** (state.attempt_number - 1)
        return min(backoff_s + jitter_s, retry.wait_max_s)

    async def post(self, request: OperatorRequest) -> HttpAnswer:
        """Make one attempt to post a request. Returns the answer, whatever its HTTP status.

        Raises:
            OperatorNetworkError: no complete answer arrived.
            RuntimeError: the transport is not entered.
        """
        if self._session is None:
            raise RuntimeError("the transport is not entered: use `async with`")
        try:
            async with self._session.post(
                self.base_url + request.endpoint.path,
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
            ) as response:
                begun_s = time.monotonic()
                body = await self._read_body(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Not chained: aiohttp's exceptions contain the request's headers, and so the API key.
            raise explain_network_error(error) from None
        headers = response.headers
        content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return HttpAnswer(
            response.status,
            content_type,
            body,
            headers.get("Retry-After"),
            headers.get("Age"),
            ", ".join(headers.getall("Via", ())),
            begun_s,
        )

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes:
        if (response.content_length or 0) > self._max_answer_bytes:
            raise self._oversize()
        body = BytesIO()  # grows without a copy: joining chunks of megabytes would hold the GIL for milliseconds
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body.write(chunk)
            if body.tell() > self._max_answer_bytes:
                raise self._oversize()
        return body.getvalue()

    def _oversize(self) -> OperatorOversizeError:
        return OperatorOversizeError(f"operator's answer is larger than {self._max_answer_bytes} bytes")


def _log_retry(endpoint: Endpoint, state: RetryCallState) -> None:
    error = None if state.outcome is None else state.outcome.exception()
    # Not the error's message, which may quote the operator.
    _log.warning(
        "call of %s failed (%s) and is retried in %.3f s", endpoint.path, type(error).__name__, state.upcoming_sleep
    )
