"""Reads requests from the bytes of a connection, without I/O.

`RequestReader.feed` takes bytes as they arrive and returns the requests that they complete. It reads plain requests
only (see `heads`). At any other request it stops and keeps the bytes for an HTTP library. It also stops at a limit of
requests, because a client may send a thousand in one segment; `read_on` continues. Its states:

    state     received of the next request       next states
    IDLE      nothing                            IDLE, HEAD, BODY, FOREIGN, MORE
    HEAD      part of the head                   IDLE, HEAD, BODY, FOREIGN, MORE
    BODY      the head and part of the body      BODY; after the last byte as from IDLE
    FOREIGN   a head that is not plain           FOREIGN
    MORE      bytes that have not been read      MORE; after `read_on` as from IDLE

The requests do not depend on how the bytes are split.
"""

import sys
from enum import IntEnum, auto
from typing import ClassVar, TypeAlias

from bidstream_svc.server.fastpath.heads import HEAD_END, MAX_HEAD_BYTES, PlainHeads
from bidstream_svc.server.routes import Route

# The route of a request, and its body.
Request: TypeAlias = tuple[Route, bytes]


class State(IntEnum):
    """What has been received of the next request; see the table above."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    FOREIGN = auto()
    MORE = auto()


IDLE, HEAD, BODY, FOREIGN, MORE = State  # module globals are faster than attributes of the class


class RequestReader:
    """Reads the requests of one connection.

    Args:
        heads: recognises plain heads; shared by the connections of a listener.

    Attributes:
        state: see the table above.
        route: the route of the incomplete request in state BODY; None in other states.
    """

    __slots__ = ("_body", "_body_length", "_heads", "_kept", "_missing_bytes", "_start", "route", "state")

    def __init__(self, heads: PlainHeads) -> None:
        self.state = IDLE
        self.route: Route | None = None
        self._heads = heads
        self._kept = b""  # in HEAD and FOREIGN: the bytes received of the request; in MORE: those that are not read
        self._start = 0  # of the latter, in `_kept`
        # In BODY. Not a list of what was received: pieces of two bytes would take many times their length.
        self._body = bytearray()
        self._body_length = 0
        self._missing_bytes = 0

    def match(self, data: bytes) -> Request | None:
        """Return the request if these bytes are exactly one plain request, the usual case; if None, call `feed`."""
        if self.state is not IDLE:
            return None
        body_start = data.find(HEAD_END, 0, MAX_HEAD_BYTES) + len(HEAD_END)
        head = self._heads.find(data[:body_start])
        if head is None:
            return None
        route, body_length = head
        return (route, data[body_start:]) if body_start + body_length == len(data) else None

    def feed(self, data: bytes, limit: int = sys.maxsize) -> list[Request]:
        """Return the requests that these bytes complete, in order, at most `limit`; in state MORE, keep the bytes."""
        if self.state is MORE:
            self._kept, self._start = self._kept[self._start :] + data, 0
            return []
        if self.state is HEAD:
            data, self._kept, self.state = self._kept + data, b"", IDLE
        return self._read(data, 0, limit)

    def read_on(self, limit: int) -> list[Request]:
        """In state MORE, return the next requests, at most `limit`."""
        data, start = self._kept, self._start
        self._kept, self._start, self.state = b"", 0, IDLE
        return self._read(data, start, limit)

    def _read(self, data: bytes, start: int, limit: int) -> list[Request]:
        requests: list[Request] = []
        while start < len(data):
            if len(requests) == limit:
                self._kept, self._start, self.state = data, start, MORE
                break
            start = self._READERS[self.state](self, data, start, requests)
        return requests

    @property
    def unfinished_bytes(self) -> int:
        """How many bytes are kept, of an incomplete request or in state MORE."""
        if self.state is BODY:
            return self._body_length - self._missing_bytes
        return len(self._kept)

    def take_foreign(self) -> bytes:
        """In state FOREIGN, return the bytes received since the start of the request that is not plain."""
        kept, self._kept = self._kept, b""
        return kept

    # One method per state. It reads `data` from `start` on and returns where it stopped.

    def _read_head(self, data: bytes, start: int, requests: list[Request]) -> int:
        end = data.find(HEAD_END, start, start + MAX_HEAD_BYTES)
        if end < 0:
            self._kept = data[start:]
            self.state = HEAD if self._heads.may_begin(self._kept) else FOREIGN
            return len(data)
        body_start = end + len(HEAD_END)
        head = self._heads.find(data[start:body_start])
        if head is None:
            self._kept = data[start:]
            self.state = FOREIGN
            return len(data)
        route, body_length = head
        body_end = body_start + body_length
        if body_end > len(data):
            self.route, self._body_length = head
            self._body += data[body_start:]
            self._missing_bytes = body_end - len(data)
            self.state = BODY
            return len(data)
        requests.append((route, data[body_start:body_end]))
        return body_end

    def _read_body(self, data: bytes, start: int, requests: list[Request]) -> int:
        part = data[start : start + self._missing_bytes]
        self._body += part
        self._missing_bytes -= len(part)
        if not self._missing_bytes:
            assert self.route is not None
            requests.append((self.route, bytes(self._body)))
            self._body, self.route, self.state = bytearray(), None, IDLE
        return start + len(part)

    def _keep_foreign(self, data: bytes, start: int, _requests: list[Request]) -> int:
        self._kept += data[start:]
        return len(data)

    _READERS: ClassVar = {IDLE: _read_head, BODY: _read_body, FOREIGN: _keep_foreign}
