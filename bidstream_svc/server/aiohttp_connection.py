"""A connection whose requests aiohttp answers.

aiohttp gets one request at a time. So every request is answered before the next one is parsed, whatever follows it.
Between two requests, the connection may be handed back to the fast path.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from bidstream_svc.server.answers import HEAD_TOO_LARGE, MALFORMED_HTTP, OVERLOADED, REQUEST_TIMEOUT, Answer
from bidstream_svc.server.base_connection import Connection, Phase
from bidstream_svc.server.connections import Connections
from bidstream_svc.server.framing import (
    BETWEEN,
    HEAD,
    UNKNOWN,
    HeadTooLargeError,
    RequestFramer,
    TooManyChunksError,
    parse_length,
)
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.response_writer import closing_response

_BEFORE_BODY = frozenset({BETWEEN, HEAD, UNKNOWN})

# Given what has been received from the beginning of a request on: the connection that answers it, None for aiohttp.
FindSuccessor: TypeAlias = Callable[[bytes], Connection | None]


class RequestHead(Protocol):
    """What aiohttp has read of a request's head.

    Attributes:
        chunked: whether the body is in chunks.
        headers: the headers; the names are not case-sensitive.
    """

    @property
    def chunked(self) -> bool:
        """See above."""

    @property
    def headers(self) -> Mapping[str, str]:
        """See above."""


class Guest(Protocol):
    """aiohttp's protocol for a connection, as far as `AiohttpConnection` uses it.

    Attributes:
        has_parsed: whether a request or an error has been parsed, and is not started.
        is_between: whether all that was passed on has been parsed, as whole requests.
    """

    @property
    def has_parsed(self) -> bool:
        """See above."""

    @property
    def is_between(self) -> bool:
        """See above."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol; so the next four."""

    def connection_lost(self, exc: BaseException | None) -> None: ...  # noqa: D102

    def data_received(self, data: bytes) -> None: ...  # noqa: D102

    def pause_writing(self) -> None: ...  # noqa: D102

    def resume_writing(self) -> None: ...  # noqa: D102

    def begin_body(self) -> RequestHead | None:
        """Return the head that has just been parsed; None if it is incomplete or malformed."""

    def answer_now(self) -> bool:
        """Answer the request that is parsed and not started; return whether another one may be."""

    def refuse_chunks(self) -> None:
        """Await no more of the last request's body, because its chunks are too many for its length."""

    def drop_body(self) -> None:
        """Free what has been received of the last request's body and not been read."""

    def count_refusal(self, answer: Answer) -> None:
        """Count the request that is being received as refused."""

    def leave(self) -> None:
        """End without closing the transport; all requests must be answered."""


class AiohttpConnection(Connection):
    """A connection whose requests aiohttp answers.

    A request that follows one that is not answered yet is held back, and reading is paused. So the end of the input,
    if the client half-closes the connection, is noticed only when all its requests are answered.

    Args:
        guest: aiohttp's protocol; it writes to the transport itself.
        hosts: checks the `Host` header of its requests.
        find_successor: called for each request after the first one; None to leave all of them to aiohttp.
    """

    __slots__ = (
        "_find_successor",
        "_framer",
        "_has_answered",
        "_has_eof",
        "_input_ends",
        "_is_answering",
        "_is_discarding",
        "_last_answer",
        "_rest",
        "_start",
        "guest",
        "hosts",
    )

    def __init__(
        self, connections: Connections, guest: Guest, hosts: HostCheck, find_successor: FindSuccessor | None = None
    ) -> None:
        super().__init__(connections)
        self._find_successor = find_successor
        self.guest = guest
        self.hosts = hosts
        self._framer = RequestFramer()
        self._is_answering = False  # a head has been passed on, and its request is not answered
        self._has_answered = False
        self._is_discarding = False  # what is received is not passed on any more
        self._input_ends = asyncio.Event()
        self._rest = b""  # what has been received and, from `_start` on, not passed on
        self._start = 0
        self._has_eof = False
        self._last_answer: Answer | None = None  # to be sent instead of reading further requests

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect aiohttp to the transport."""
        super().connection_made(transport)
        self.guest.connection_made(transport)
        # With a limit of 0, any unsent byte pauses writing, so that the deadline of UNREAD applies. Not with TLS: there
        # uvloop never resumes writing if the limit is 0.
        if self.transport is not None and not self.is_tls:
            self.transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the event to aiohttp, and remove the connection from the open ones."""
        self._input_ends.set()
        if self.transport is not None:
            self.guest.connection_lost(exc)
        self._rest = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to aiohttp up to the end of a request. They count as held until the request is answered."""
        if self._is_discarding:
            return
        self._rest, self._start = self._rest[self._start :] + data, 0
        if self._is_answering or self._framer.state in _BEFORE_BODY:  # otherwise aiohttp discards the body
            self.hold_input(self.input_bytes + len(data))
        self._pass_on()

    def eof_received(self) -> bool:
        """Return True, which keeps the connection open for answering, if a complete request is not answered yet."""
        self._has_eof = True
        self._input_ends.set()
        transport = self.transport
        if transport is None or transport.can_write_eof():
            return self._is_pending
        # With TLS, uvloop closes the connection in any case.
        while self._is_pending and self.guest.answer_now():
            self._is_answering = False
            self._pass_on()
        return False

    @property
    def is_refused(self) -> bool:
        """Whether the connection is refused while a request is being answered."""
        return self._last_answer is not None

    @property
    def _is_pending(self) -> bool:
        """Whether a complete request is not answered."""
        return self._is_answering and self._framer.state in {BETWEEN, UNKNOWN}

    def pause_writing(self) -> None:
        """Record that the write buffer is full, and pass the event to aiohttp."""
        super().pause_writing()
        self.guest.pause_writing()

    def resume_writing(self) -> None:
        """Record that the write buffer has been emptied, and pass the event to aiohttp."""
        super().resume_writing()
        self.guest.resume_writing()

    # Called by the guest and by the code that answers.

    def answer_malformed(self) -> None:
        """Answer a request that aiohttp could not parse, and close the connection."""
        self._answer_last(MALFORMED_HTTP)

    def pause_behind_request(self) -> None:
        """Read nothing further if a complete request is not answered. Also called after aiohttp has resumed reading."""
        has_request = self._is_answering and self._framer.state is BETWEEN
        if has_request and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def request_is_answered(self) -> None:
        """Go on with the next request, after the rest of this loop iteration."""
        asyncio.get_running_loop().call_soon(self._continue)

    async def wait_input_ends(self) -> None:
        """Wait until the client sends nothing more."""
        await self._input_ends.wait()

    # Called by Connections.

    def request_phase(self) -> Phase:
        """See Connection. The deadline of a body is enforced by the code that reads or discards it."""
        state = self._framer.state
        if not self._is_answering and state in {HEAD, UNKNOWN}:
            return Phase.REQUEST
        return Phase.IDLE if not self._is_answering and state is BETWEEN else Phase.RESPONSE

    def time_out(self, phase: Phase) -> None:
        """Close the connection; an incomplete request is answered with 408 first."""
        if phase is Phase.REQUEST:
            self._answer_last(REQUEST_TIMEOUT)
        super().time_out(phase)

    def refuse(self) -> None:
        """Answer 503 and close the connection, because the buffered bytes exceed their limit."""
        if self.is_writing_paused:
            self.abort()
        elif self._is_answering and self._framer.state is BETWEEN:
            self._rest, self._start, self._last_answer = b"", 0, OVERLOADED  # after the answer that is in progress
        else:
            self._answer_last(OVERLOADED)
            # Now, because hundreds of connections may be refused before the loop tells them that they are closed.
            self._is_discarding, self._rest, self._start = True, b"", 0
            self.guest.drop_body()

    def _pass_on(self) -> None:
        """Pass on what has been received, up to the end of a request that is not answered yet."""
        transport, framer, data = self.transport, self._framer, self._rest
        while self._start < len(data) and not (self._is_answering and framer.state is BETWEEN):
            if transport is None or transport.is_closing() or (framer.state is BETWEEN and self._hand_back()):
                return
            start = self._start
            try:
                self._start = framer.cut(data, start)
            except HeadTooLargeError:
                self._answer_last(HEAD_TOO_LARGE)
                return
            except TooManyChunksError:
                self._is_discarding, self._rest, self._start = True, b"", 0
                self.guest.refuse_chunks()
                return
            self.guest.data_received(data[start : self._start])
            if framer.state is HEAD:
                self._look_at_head()
        if self._start == len(data):
            self._rest, self._start = b"", 0
        self.pause_behind_request()

    def _hand_back(self) -> bool:
        """Hand the connection over if it has a successor for the request that begins; return whether it has.

        Not before the first answer, so that the bytes of a segment pass from one connection to another at most twice.
        And only if aiohttp agrees that the last request ends here: its body may be malformed, which the framer ignores.
        """
        if self._find_successor is None or not self._has_answered or self._has_eof or not self.guest.is_between:
            return False
        unread = self._rest[self._start :]
        transport, successor = self.transport, self._find_successor(unread)
        if transport is None or successor is None:
            return False
        self._rest, self._start = b"", 0
        self.guest.leave()
        if not self.is_tls:
            transport.set_write_buffer_limits()  # the default
        transport.resume_reading()
        self.pass_to(successor, unread)
        return True

    def _look_at_head(self) -> None:
        """Begin the body if the head is complete."""
        head = self.guest.begin_body()
        if head is not None and self._framer.has_head:
            self._is_answering = True
            self._framer.begin_body(None if head.chunked else parse_length(head.headers.get("Content-Length", "0")))
        elif self.guest.has_parsed or self._framer.has_head:
            self._is_answering = self.guest.has_parsed  # a 400
            self._framer.give_up()

    def _continue(self) -> None:
        self._is_answering = False
        self._has_answered = True
        self.quiet_sweeps = 0
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.hold_input(len(self._rest) - self._start)
        if self._last_answer is not None:
            self._answer_last(self._last_answer)
            return
        self._pass_on()
        if self._is_pending or self.transport is None:
            return
        if self._has_eof:
            transport.close()
        else:
            transport.resume_reading()

    def _answer_last(self, answer: Answer) -> None:
        """Answer the request that is being received, or the next one, and close the connection."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._is_answering or self._framer.state in _BEFORE_BODY:  # otherwise it has its answer already
            self.guest.count_refusal(answer)
            transport.write(closing_response(answer))
        transport.close()
