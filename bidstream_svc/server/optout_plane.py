"""The plane of opt-outs: the webhook, and the snapshot for other hosts.

The sender of the webhook goes on with the next opt-out only after a 200. It tries again after a 503, and stops at any
other status, so that all further opt-outs wait for hours. So even a request that says nothing is answered with 200, and
a 4xx is logged.
"""

import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Sequence
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import parse_qs

import orjson

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.config import SNAPSHOT_PATH
from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import OPTOUT_DELAY_MS, OPTOUTS_RECEIVED, OptOutResult
from bidstream_svc.optouts.group_commit import GroupCommit
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.snapshot_client import INCOMPLETE_FOR
from bidstream_svc.optouts.snapshot_download import INCOMPLETE_HEADER
from bidstream_svc.optouts.snapshot_file import SnapshotFile, SnapshotFiles
from bidstream_svc.optouts.webhook import Malformed, Webhook
from bidstream_svc.server.answers import UNAUTHORIZED, Answer, error_answer, error_body
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.byte_range import ByteRange, UnsatisfiableRangeError, parse_range
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.page_connection import Answering, PageConnection, Shared
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.pages import Page, PageRequest, StreamedPage
from bidstream_svc.server.turns import Turns

_log = get_logger(__name__)

# id of the store of the receiver that asks, "" for none -> whether opt-outs may be missing from a snapshot; None if
# this host may have none.
JudgeSnapshot: TypeAlias = Callable[[str], bool | None]

_WEBHOOK_METHODS = ("GET", "POST")
_SNAPSHOT_METHODS = ("GET",)
# Those that wait for one count. They share files, but each takes a connection, and time of the loop.
_MAX_SNAPSHOTS = 32
_RETRY_AFTER_S = 5
_LOG_PERIOD_S = 60.0
_NOT_FOUND = error_answer(404, "not_found", "there is no such path")
_WRONG_METHOD = error_answer(405, "method_not_allowed", "this method is not allowed here")
_RESULT_PAGES = {result: Page(200, orjson.dumps({"result": result})) for result in OptOutResult}
_TROUBLE = error_answer(503, "unavailable", "the opt-out could not be stored; send it again")
_NO_SNAPSHOT = error_answer(503, "unavailable", "no snapshot can be taken now; try again")
# With 416, which is no status of the data plane.
_NO_RANGE_BODY = error_body("range_not_satisfiable", "the range is malformed, several, or not within the snapshot")
_TROUBLE_PAGE = Page(*_TROUBLE[:2])
_NO_SNAPSHOT_PAGE = Page(*_NO_SNAPSHOT[:2], headers=[f"Retry-After: {_RETRY_AFTER_S}"])


class OptOutPlane:
    """Answers the requests of the plane.

    Args:
        webhook: reads a request.
        commit: adds opt-outs to the store.
        metrics: counts requests.
        connections: the connections of the plane.
        bearer: the token that requests must have; None for none.
        gives_snapshots: whether other hosts may have all of the store.
        snapshots: the snapshots.
        judge_snapshot: see JudgeSnapshot.

    Attributes:
        is_draining: True while the process ends; every answer closes its connection.
    """

    def __init__(
        self,
        webhook: Webhook,
        commit: GroupCommit,
        metrics: MetricCells,
        connections: PageConnections,
        *,
        bearer: BearerToken | None,
        gives_snapshots: bool,
        snapshots: SnapshotFiles,
        judge_snapshot: JudgeSnapshot,
    ) -> None:
        self._webhook = webhook
        self._commit = commit
        self._metrics = metrics
        self._bearer = bearer
        self._gives_snapshots = gives_snapshots
        self._snapshots = snapshots
        self._judge_snapshot = judge_snapshot
        self._snapshots_sent = 0
        self._next_log_s = 0.0
        self.is_draining = False
        # A proxy may pass any name on, and a refusal would stop the sender. A snapshot is for no page in a browser.
        self._shared = Shared(
            connections,
            self._answer,
            Turns(),
            lambda: self.is_draining,
            lambda path: path == SNAPSHOT_PATH,
            self._note_refusal,
        )

    def connect(self, hosts: HostCheck) -> PageConnection:
        """Return a protocol for a new connection; `hosts` checks its `Host` headers."""
        return PageConnection(self._shared, hosts)

    def _answer(self, request: PageRequest) -> Answering:
        is_snapshot = request.path == SNAPSHOT_PATH and self._gives_snapshots
        if not is_snapshot and not self._webhook.has_path(request.path):
            return self._refuse(_NOT_FOUND)
        methods = _SNAPSHOT_METHODS if is_snapshot else _WEBHOOK_METHODS
        if request.method not in methods:
            return self._refuse(_WRONG_METHOD, f"Allow: {','.join(methods)}")
        if self._bearer is not None and not self._bearer.matches(request.authorization):
            if not is_snapshot:
                self._count(OptOutResult.UNAUTHORIZED)
            return self._refuse(UNAUTHORIZED, "WWW-Authenticate: Bearer")
        return self._send_snapshot(request) if is_snapshot else self._take(request)

    def _refuse(self, answer: Answer, *headers: str) -> Page:
        status, body, *_ = answer
        self._note_refusal(status)
        return Page(status, body, headers=headers)

    def _note_refusal(self, status: int) -> None:
        # After a 5xx, a sender tries again.
        if status < HTTPStatus.INTERNAL_SERVER_ERROR and time.monotonic() >= self._next_log_s:
            self._next_log_s = time.monotonic() + _LOG_PERIOD_S
            _log.error("opt-out request refused", status=status)

    # The webhook.

    def _take(self, request: PageRequest) -> Answering:
        now_ms = wall_clock_ms()
        read = self._webhook.read(request.path, request.query, now_ms // MS_PER_S)
        return self._write(read, now_ms)

    async def _write(self, read: OptOut | Malformed, now_ms: int) -> Page:
        result = await self._commit.put(read)
        if result is OptOutResult.NEW and isinstance(read, OptOut) and read.entry_s is not None:
            self._metrics.observe(OPTOUT_DELAY_MS, max(0, now_ms - read.entry_s * MS_PER_S))
        return self._result(result)

    def _result(self, result: OptOutResult) -> Page:
        self._count(result)
        return _TROUBLE_PAGE if result is OptOutResult.ERROR else _RESULT_PAGES[result]

    def _count(self, result: OptOutResult) -> None:
        self._metrics.add(OPTOUTS_RECEIVED[result])

    # The snapshot.

    async def _send_snapshot(self, request: PageRequest) -> Page | StreamedPage:
        if self._snapshots_sent >= _MAX_SNAPSHOTS:
            return _NO_SNAPSHOT_PAGE
        self._snapshots_sent += 1
        try:
            page = await self._open_snapshot(request)
        except BaseException:  # also cancelled, because the client has gone
            self._snapshots_sent -= 1
            raise
        if isinstance(page, Page):
            self._snapshots_sent -= 1
        return page

    async def _open_snapshot(self, request: PageRequest) -> Page | StreamedPage:
        # Without If-Range the client cannot know of which snapshot it has the first part, so it gets all of one.
        # Whoever has the tag of a snapshot may have it, whatever has happened to this store since.
        tags = request.fields.get(b"if-range", [])
        begun = self._snapshots.find(tags[0]) if len(tags) == 1 else None
        if begun is not None:
            try:
                wanted = parse_range(request.fields.get(b"range", []), begun.size)
            except UnsatisfiableRangeError:
                status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                return Page(status, _NO_RANGE_BODY, headers=[f"Content-Range: bytes */{begun.size}"])
            if wanted is not None:
                return self._stream_page(begun, wanted)
        is_incomplete = self._judge_snapshot(parse_qs(request.query).get(INCOMPLETE_FOR, [""])[0])
        if is_incomplete is None:
            return _NO_SNAPSHOT_PAGE
        try:
            snapshot = await self._snapshots.open()
        except OptOutStoreError as error:
            _log.error("opt-out snapshot failed", error=str(error))
            return _NO_SNAPSHOT_PAGE
        return self._stream_page(snapshot, None, [f"{INCOMPLETE_HEADER}: 1"] if is_incomplete else [])

    def _stream_page(self, snapshot: SnapshotFile, part: ByteRange | None, headers: Sequence[str] = ()) -> StreamedPage:
        start, end = part or (0, snapshot.size)
        lines = [
            *headers,
            "Accept-Ranges: bytes",
            f"ETag: {snapshot.etag}",
            f"Repr-Digest: sha-256=:{b64encode(snapshot.digest).decode()}:",
        ]
        if part is not None:
            lines.append(f"Content-Range: bytes {start}-{end - 1}/{snapshot.size}")
        status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
        parts = self._read(snapshot, start, end)
        return StreamedPage(parts, end - start, "application/octet-stream", lines, status=status)

    async def _read(self, snapshot: SnapshotFile, start: int, end: int) -> AsyncGenerator[bytes, None]:
        try:
            async for part in snapshot.iterate(start, end):
                yield part
        finally:
            self._snapshots_sent -= 1
