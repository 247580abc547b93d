"""The plane of opt-outs: the webhook, and the snapshot for other hosts.

The sender of the webhook goes on with the next opt-out only after a 200. It tries again after a 503, and stops at any
other status, so that all further opt-outs wait for hours. So even a request that says nothing is answered with 200, and
a 4xx is logged.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
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
from bidstream_svc.optouts.snapshot_client import INCOMPLETE_FOR, INCOMPLETE_HEADER
from bidstream_svc.optouts.snapshot_file import SnapshotFile
from bidstream_svc.optouts.webhook import Malformed, Webhook
from bidstream_svc.server.answers import UNAUTHORIZED, Answer, error_answer
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.page_connection import Answering, PageConnection, Shared
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.pages import Page, PageRequest, StreamedPage
from bidstream_svc.server.turns import Turns

_log = get_logger(__name__)

# (id of the store of the receiver that asks, "" for none) -> (snapshot, whether opt-outs may be missing from it)
OpenSnapshot: TypeAlias = Callable[[str], Awaitable[tuple[SnapshotFile, bool] | None]]

_WEBHOOK_METHODS = ("GET", "POST")
_SNAPSHOT_METHODS = ("GET",)
# They share files, but each takes time of the loop.
_MAX_SNAPSHOTS = 8
_RETRY_AFTER_S = 5
_LOG_PERIOD_S = 60.0
_NOT_FOUND = error_answer(404, "not_found", "there is no such path")
_WRONG_METHOD = error_answer(405, "method_not_allowed", "this method is not allowed here")
_RESULT_PAGES = {result: Page(200, orjson.dumps({"result": result})) for result in OptOutResult}
_TROUBLE = error_answer(503, "unavailable", "the opt-out could not be stored; send it again")
_NO_SNAPSHOT = error_answer(503, "unavailable", "no snapshot can be taken now; try again")
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
        open_snapshot: returns a snapshot, None if there is none for the host that asks. May raise OptOutStoreError.

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
        open_snapshot: OpenSnapshot,
    ) -> None:
        self._webhook = webhook
        self._commit = commit
        self._metrics = metrics
        self._bearer = bearer
        self._gives_snapshots = gives_snapshots
        self._open_snapshot = open_snapshot
        self._snapshots = 0
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
        asking = parse_qs(request.query).get(INCOMPLETE_FOR, [""])[0]
        try:
            opened = await self._open_snapshot(asking) if self._snapshots < _MAX_SNAPSHOTS else None
        except OptOutStoreError as error:
            _log.error("opt-out snapshot failed", error=str(error))
            opened = None
        if opened is None:
            return _NO_SNAPSHOT_PAGE
        snapshot, is_incomplete = opened
        self._snapshots += 1
        headers = [f"{INCOMPLETE_HEADER}: 1"] if is_incomplete else []
        return StreamedPage(self._read(snapshot), snapshot.size, "application/octet-stream", headers)

    async def _read(self, snapshot: SnapshotFile) -> AsyncGenerator[bytes, None]:
        try:
            async for part in snapshot.iterate():
                yield part
        finally:
            self._snapshots -= 1
