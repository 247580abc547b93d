"""A connection of the admin plane or the webhook: it reads requests and writes pages.

A body is read only for a page that takes one, and ignored otherwise.

aiohttp is not used here. It takes ten times as long for a request, and a health probe may have to wait for the requests
of all other clients. `RequestFramer` cuts the input, and `PageHead` parses the heads.

A page that is ready is written at once. All further work, such as the rest of a pipeline, waits its turn: one piece is
done in each iteration of the loop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import NamedTuple, TypeAlias

from bidstream_svc.logs import get_logger
from bidstream_svc.server.answers import (
    HEAD_TOO_LARGE,
    INTERNAL_ERROR,
    MALFORMED_HTTP,
    OVERLOADED,
    REQUEST_TIMEOUT,
    TOO_MANY_CHUNKS,
    UNKNOWN_HOST,
    Answer,
    too_large,
)
from bidstream_svc.server.base_connection import Connection, Phase
from bidstream_svc.server.framing import (
    BETWEEN,
    HEAD,
    UNKNOWN,
    HeadTooLargeError,
    RequestFramer,
    TooManyChunksError,
)
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.page_head import PageHead
from bidstream_svc.server.pages import (
    Page,
    PageRequest,
    StreamedPage,
    streamed_head,
    whole_response,
)
from bidstream_svc.server.response_writer import closing_response
from bidstream_svc.server.turns import Turns

_log = get_logger(__name__)

# How much may wait behind a request that is being answered, before reading is paused.
_MAX_REST_BYTES = 64 * 1024


Answering: TypeAlias = Page | Awaitable[Page | StreamedPage]


class Shared(NamedTuple):
    """Objects shared by all connections of a plane.

    Attributes:
        connections: the connections.
        answer: returns the page for a request, or what has to be awaited for it.
        turns: orders the work that can wait.
        is_draining: returns True while the process ends, and every answer closes its connection.
        needs_host: returns whether requests for a path are refused if their `Host` header has another name.
        note_unread: called with the status that a request got which could not be read to its end.
        max_body_bytes: returns how long the body of a request may be; 0 if it is ignored.
    """

    connections: PageConnections
    answer: Callable[[PageRequest], Answering]
    turns: Turns
    is_draining: Callable[[], bool] = lambda: False
    needs_host: Callable[[str], bool] = lambda _path: True
    note_unread: Callable[[int], None] = lambda _status: None
    max_body_bytes: Callable[[PageRequest], int] = lambda _request: 0


class PageConnection(Connection):
    """One connection.

    Args:
        shared: objects shared by all connections.
        hosts: checks the `Host` header of its requests.
    """

    __slots__ = (
        "_framer",
        "_has_eof",
        "_head",
        "_hosts",
        "_is_answering",
        "_max_body_bytes",
        "_may_write",
        "_reading_body",
        "_rest",
        "_shared",
        "_start",
        "_task",
    )

    def __init__(self, shared: Shared, hosts: HostCheck) -> None:
        super().__init__(shared.connections)
        self._shared = shared
        self._hosts = hosts
        self._framer = RequestFramer()
        self._head = PageHead()
        self._reading_body: PageHead | None = None  # until the request is answered
        self._max_body_bytes = 0  # of that request
        self._rest = b""  # what has been received and, from `_start` on, not been read
        self._start = 0
        self._is_answering = False  # a page is being made, or the rest waits for its turn
        self._task: asyncio.Task[None] | None = None
        self._may_write: asyncio.Future[None] | None = None  # what a streamed page waits for
        self._has_eof = False

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport. Any unsent byte pauses writing, so that the deadline of UNREAD applies.

        Not with TLS: there uvloop never resumes writing if the limit is 0.
        """
        super().connection_made(transport)
        if self.transport is not None and not self.is_tls:
            self.transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what has been received, and end the work for it."""
        if self._task is not None:
            self._task.cancel()
        self._rest, self._reading_body = b"", None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer the first request in `data`; those behind it wait for their turn."""
        self._rest, self._start = self._rest[self._start :] + data, 0
        if self._is_answering or self.is_writing_paused:
            if len(self._rest) >= _MAX_REST_BYTES and self.transport is not None:
                self.transport.pause_reading()
        else:
            self._read_request()
        self._hold()

    def eof_received(self) -> bool:
        """Return True, which keeps the connection open, if there are requests to be answered."""
        self._has_eof = True
        return self._is_answering or self.is_writing_paused

    def pause_writing(self) -> None:
        """Read nothing while the client does not read its answers."""
        super().pause_writing()
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on with the next request."""
        super().resume_writing()
        if self._may_write is not None and not self._may_write.done():
            self._may_write.set_result(None)
        if not self._is_answering:
            self._go_on()

    # Called by Connections.

    def request_phase(self) -> Phase:
        """See Connection."""
        if self._is_answering:
            return Phase.RESPONSE
        return Phase.IDLE if self._framer.state is BETWEEN else Phase.REQUEST

    def time_out(self, phase: Phase) -> None:
        """Close the connection; an incomplete head, or a body that is read, is answered with 408 first."""
        if phase is Phase.REQUEST and (self._framer.state is HEAD or self._reading_body is not None):
            self._answer_last(REQUEST_TIMEOUT)
        super().time_out(phase)

    def refuse(self) -> None:
        """Answer 503 and close the connection, because the buffered bytes exceed their limit."""
        if self._is_answering or self.is_writing_paused:
            self.abort()
        else:
            self._answer_last(OVERLOADED)

    # Requests.

    def _read_request(self) -> None:
        """Read up to the end of the next request, as far as it is read, and answer it."""
        framer = self._framer
        self._discard_body()
        if self.transport is None or self.transport.is_closing():
            return
        while self._start < len(self._rest):
            start = self._start
            try:
                self._start = framer.cut(self._rest, start)
            except HeadTooLargeError:
                self._answer_last(HEAD_TOO_LARGE)
                return
            except TooManyChunksError:
                self._answer_last(TOO_MANY_CHUNKS)
                return
            if self._reading_body is not None:
                self._read_body(self._reading_body, self._rest[start : self._start])
                if self._is_answering or self._reading_body is None:
                    return
                continue
            if framer.state is not HEAD:
                continue  # empty lines
            self._head.feed(self._rest[start : self._start])
            if self._head.is_malformed or self._head.is_complete != framer.has_head:
                self._answer_last(MALFORMED_HTTP)
                return
            if framer.has_head:
                head, self._head = self._head, PageHead()
                framer.begin_body(head.body_bytes)
                self._begin(head)
                if self._reading_body is None or self._is_answering:
                    return
        self._rest, self._start = b"", 0

    def _begin(self, head: PageHead) -> None:
        """Answer a request of which the head is complete, unless its body is read first."""
        if self._shared.needs_host(head.path) and not self._hosts.allows(head.host):
            self._answer_last(UNKNOWN_HOST)
            return
        limit = self._max_body_bytes = self._shared.max_body_bytes(_request_of(head))
        if not limit:
            self._answer(head)
        elif (head.body_bytes or 0) > limit:
            self._refuse_body(head)
        else:
            self._reading_body = head
            if self._framer.state is BETWEEN:
                self._answer(head)  # it has no body
            elif head.expects:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, head: PageHead, data: bytes) -> None:
        """Read a part of a body; answer the request if it is the last."""
        head.feed_body(data)
        if head.is_malformed or self._framer.state is UNKNOWN:
            self._reading_body = None
            self._answer_last(MALFORMED_HTTP)
        elif len(head.body) > self._max_body_bytes:
            self._refuse_body(head)
        elif self._framer.state is BETWEEN:
            self._answer(head)

    def _refuse_body(self, head: PageHead) -> None:
        """Answer 413. The rest of the body is discarded."""
        self._reading_body = None
        self._is_answering = True
        status, body, *_ = too_large(self._max_body_bytes)
        self._send(head, Page(status, body))

    def _answer(self, head: PageHead) -> None:
        self._is_answering = True
        head.closes = head.closes or self._shared.is_draining()
        page = self._shared.answer(_request_of(head))
        if isinstance(page, Page):
            self._send(head, page)
        else:
            self._task = asyncio.get_running_loop().create_task(self._send_later(head, page))

    async def _send_later(self, head: PageHead, page: Awaitable[Page | StreamedPage]) -> None:
        try:
            made = await page
            if isinstance(made, StreamedPage):
                await self._stream(head, made)
        except Exception:  # noqa: BLE001 - a bug in one page must not affect the others
            _log.exception("request failed")
            self._answer_last(INTERNAL_ERROR)
        else:
            if isinstance(made, Page):
                self._send(head, made)
            else:
                self._end_answer(head)
        self._task = None

    def _send(self, head: PageHead, page: Page) -> None:
        """Write a page, and go on with what has been received behind its request."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        transport.write(whole_response(page, has_body=head.method != "HEAD", closes=head.closes))
        self._end_answer(head)

    async def _stream(self, head: PageHead, page: StreamedPage) -> None:
        """Write a page as fast as the client reads it. If its parts end with an exception, close the connection."""
        deadline_s = time.monotonic() + page.timeout_s
        self._write(streamed_head(page, closes=head.closes))
        async with aclosing(page.parts) as parts:
            try:
                async for part in parts:
                    await self._wait_to_write()
                    if time.monotonic() > deadline_s:
                        self.abort()
                        return
                    self._write(part)
            except Exception:
                self.abort()  # the only way to tell that it is not complete
                raise

    async def _wait_to_write(self) -> None:
        if self.is_writing_paused:
            self._may_write = asyncio.get_running_loop().create_future()
            await self._may_write
        self.quiet_sweeps = 0  # the client reads

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def _end_answer(self, head: PageHead) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.quiet_sweeps = 0
        self._shared.connections.mark_used(self)
        self._is_answering = False
        if self._reading_body is not None:
            self._reading_body = None
            self._hold()
        if head.closes:
            transport.close()
        elif not self.is_writing_paused:
            self._go_on()

    def _go_on(self) -> None:
        """Read the next request in a turn of its own, if there is one."""
        self._discard_body()
        if self._start < len(self._rest):
            self._is_answering = True
            self._shared.turns.add(self._take_turn)
        elif self._has_eof:
            self._close()
        elif self.transport is not None:
            self._rest, self._start = b"", 0
            self.transport.resume_reading()

    def _take_turn(self) -> None:
        self._is_answering = False
        if self.transport is None or self.transport.is_closing() or self.is_writing_paused:
            return
        self._read_request()
        self._hold()
        if not self._is_answering and not self.is_writing_paused:
            self._go_on()

    def _discard_body(self) -> None:
        """Discard what has been received of the body of a request that has been answered."""
        if self._reading_body is not None:
            return
        while self._start < len(self._rest) and self._framer.state is not BETWEEN and self._framer.state is not HEAD:
            try:
                self._start = self._framer.cut(self._rest, self._start)
            except (HeadTooLargeError, TooManyChunksError):
                self._close()
                return
        if self._framer.state is UNKNOWN:  # a malformed chunk: where the next request begins is not known
            self._close()

    def _hold(self) -> None:
        held_bytes = len(self._rest) - self._start + self._head.received_bytes
        if self._reading_body is not None:
            held_bytes += len(self._reading_body.body)
        if held_bytes != self.input_bytes:
            self.hold_input(held_bytes)

    def _answer_last(self, answer: Answer) -> None:
        """Answer the request that is being received, and close the connection."""
        if self.transport is not None and not self.transport.is_closing():
            self._shared.note_unread(answer[0])
            self.transport.write(closing_response(answer))
            self.transport.close()

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()


def _request_of(head: PageHead) -> PageRequest:
    return PageRequest(
        head.method, head.path, head.accept, head.query, head.authorization, head.fields, bytes(head.body)
    )
