"""One kept HTTP/1.1 connection to a receiver of opt-outs, with control of every byte that is sent."""

import asyncio
import ssl
from http import HTTPStatus
from time import monotonic

import httptools

from bidstream_svc.optouts.sender import Endpoint
from bidstream_svc.optouts.sender_report import Reply, Trouble

_READ_BYTES = 64 * 1024
# A receiver may close a connection that is unused for so long.
_MAX_IDLE_S = 5.0
_FRAMING = {b"content-length", b"transfer-encoding"}


class _IncompleteError(Exception):
    """The answer is not complete and will not be."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble)
        self.trouble = trouble


class SenderConnection:
    """Sends one request at a time. It connects when needed and keeps the connection.

    Args:
        endpoint: where to.
        timeout_s: for a request, from connecting to the end of the answer.
        may_repeat: whether a request is sent once more if a kept connection turns out to be closed, as a GET is.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float, *, may_repeat: bool) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._may_repeat = may_repeat
        self._tls = ssl.create_default_context() if endpoint.is_tls else None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._answer = _Answer()
        self._used_at = 0.0
        self._was_closed = False

    async def exchange(self, request: bytes) -> Reply:
        """Send a request and read its answer. Never raises for a fault of the receiver."""
        started = monotonic()
        self._was_closed = False
        status, trouble = None, None
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._send_and_read(request)
        except TimeoutError:
            trouble = Trouble.ENDLESS if self._answer.has_head else Trouble.TIMED_OUT
        except _IncompleteError as error:
            trouble = error.trouble
        if trouble is not None:
            self.close()
        self._used_at = monotonic()
        return Reply(status, trouble, self._used_at - started, self._was_closed and trouble is None)

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _send_and_read(self, request: bytes) -> int:
        self._answer = _Answer()
        is_kept = self._is_open()
        try:
            return await self._exchange_once(request)
        except _IncompleteError as error:
            if not (is_kept and error.trouble is Trouble.CLOSED and self._may_repeat):
                raise
        self._note_closed()
        return await self._exchange_once(request)

    async def _exchange_once(self, request: bytes) -> int:
        reader, writer = self._streams or await self._connect()
        answer = self._answer
        try:
            writer.write(request)
            await writer.drain()
            while not answer.is_complete:
                data = await reader.read(_READ_BYTES)
                answer.feed(data) if data else answer.end()
        except OSError:
            raise _IncompleteError(answer.trouble_if_closed) from None
        if not answer.keeps_alive:
            self._note_closed()
        return answer.status

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            self._streams = await asyncio.open_connection(self._endpoint.host, self._endpoint.port, ssl=self._tls)
        except ssl.SSLCertVerificationError:
            raise _IncompleteError(Trouble.NOT_TRUSTED) from None
        except ssl.SSLError:
            raise _IncompleteError(Trouble.NO_TLS) from None
        except TimeoutError:
            raise _IncompleteError(Trouble.TIMED_OUT) from None
        except OSError:
            raise _IncompleteError(Trouble.NOT_CONNECTED) from None
        return self._streams

    @property
    def is_closed_by_receiver(self) -> bool:
        """Whether there is a connection that the receiver has closed since the last answer."""
        return self._streams is not None and self._streams[0].at_eof()

    def _is_open(self) -> bool:
        """Whether there is a connection that the receiver has not closed yet."""
        if self.is_closed_by_receiver:
            if monotonic() - self._used_at < _MAX_IDLE_S:
                self._was_closed = True
            self.close()
        return self._streams is not None

    def _note_closed(self) -> None:
        self._was_closed = True
        self.close()


class _Answer:
    """Reads one final answer; interim ones (1xx) are skipped, but for 101."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._has_framing = False
        self._has_bytes = False
        self.status = 0
        self.has_head = False
        self.is_complete = False
        self.keeps_alive = False

    @property
    def trouble_if_closed(self) -> Trouble:
        """What it means that the connection ends now."""
        return Trouble.CUT_SHORT if self._has_bytes else Trouble.CLOSED

    def feed(self, data: bytes) -> None:
        """Take bytes of the answer.

        Raises:
            _IncompleteError: it is not HTTP.
        """
        self._has_bytes = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.status, self.is_complete, self.keeps_alive = HTTPStatus.SWITCHING_PROTOCOLS, True, True
        except httptools.HttpParserError:
            if not self.is_complete:
                raise _IncompleteError(Trouble.NOT_HTTP) from None
            self.keeps_alive = False  # bytes behind the answer

    def end(self) -> None:
        """Take the end of the connection, which ends a body of unknown length.

        Raises:
            _IncompleteError: the answer is not complete.
        """
        if not self.has_head or self._has_framing:
            raise _IncompleteError(self.trouble_if_closed)
        self.is_complete = True

    def on_header(self, name: bytes, _value: bytes) -> None:
        """Called by the parser."""
        self._has_framing = self._has_framing or name.lower() in _FRAMING

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if self.is_complete:
            self.keeps_alive = False  # another answer, to no request
            return
        self.status = self._parser.get_status_code()
        self.has_head = self.status >= HTTPStatus.OK
        self.keeps_alive = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.is_complete = self.is_complete or self.has_head
