"""Gets a snapshot from a receiver over HTTP and merges it into the store. One that is cut off is resumed."""

import asyncio
from http import HTTPStatus
from pathlib import Path

import aiohttp
from yarl import URL

from bidstream_svc._version import __version__
from bidstream_svc.core.errors import ConfigurationError, OptOutStreamError
from bidstream_svc.files import read_secret_file
from bidstream_svc.logs import get_logger
from bidstream_svc.optouts.back_off import BackOff
from bidstream_svc.optouts.blocking import run_blocking
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot_download import SnapshotDownload

_log = get_logger(__name__)

# In the query, with the id of a receiver's store: a snapshot may be incomplete, but not that receiver's own.
INCOMPLETE_FOR = "incomplete_for"
_PART_BYTES = 1024 * 1024
_MAX_RETRY_AFTER_S = 60.0
_MAX_RESUMPTIONS = 20  # of one snapshot, some minutes; then it begins anew
_RESUMPTION_BACK_OFF_S = 1.0, 30.0
# The receiver writes its snapshot before it sends the head.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=300)


class SnapshotClient:
    """Gets snapshots. Its method `fetch` is what a `Follower` needs.

    Args:
        store: into which they are merged. One that fails halfway leaves a good store.
        url: of a receiver, or of an address shared by several.
        token_file: the bearer token, read for each request; None for none.
        is_receiver: whether this host is a receiver, too. Receivers give each other what they have, even if opt-outs
            may be missing from it: when all of them miss some, nobody has more than all of them together.
        token_variable: the environment variable that names this file, for errors.
    """

    def __init__(
        self,
        store: OptOutStore,
        url: str,
        token_file: Path | None = None,
        *,
        is_receiver: bool = False,
        token_variable: str = "BIDSTREAM_OPTOUT_AUTH_TOKEN_FILE",  # noqa: S107 - the name of a variable
    ) -> None:
        self._store = store
        self._url = URL(url)
        if is_receiver:
            self._url %= {INCOMPLETE_FOR: store.store_id.hex()}
        self._token_file = token_file
        self._token_variable = token_variable

    async def fetch(self) -> Position | None:
        """Get a snapshot to its end, and merge it. If it is cut off, the rest is asked for.

        Returns:
            Its position in the stream; None for one of another receiver from which opt-outs may be missing, too.

        Raises:
            OptOutStreamError: no receiver can be reached or has a snapshot, or it was cut off too often. If one says
                when to ask again, after that.
            OptOutRecordError: it is damaged or was cut short.
            OptOutStoreError: the store cannot be written.
        """
        download = SnapshotDownload(self._store)
        # From zero on: all hosts are cut off at the same moment if a receiver ends.
        back_off = BackOff(*_RESUMPTION_BACK_OFF_S, least_part=0.0)
        for left in reversed(range(_MAX_RESUMPTIONS + 1)):
            try:
                await self._receive(download)
                break
            except _CutOffError as error:
                if not download.can_resume or not left:
                    raise
                _log.warning(
                    "snapshot of opt-outs cut off; the rest is fetched",
                    error=str(error),
                    received_bytes=download.received_bytes,
                )
                await back_off.wait()
        header = await run_blocking(download.finish)
        if download.is_incomplete:
            return None
        if header.position is None:
            raise OptOutStreamError("the receiver's snapshot has no position in the stream")
        return header.position

    async def _receive(self, download: SnapshotDownload) -> None:
        """Receive a snapshot, or the rest of one, up to its end."""
        headers = {
            "User-Agent": f"bidstream-svc/{__version__}",
            "Accept-Encoding": "identity",
            **self._authorization(),
            **download.request_headers(),
        }
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, auto_decompress=False) as session,
                session.get(self._url, headers=headers, allow_redirects=False, read_bufsize=_PART_BYTES) as response,
            ):
                match response.status:
                    case HTTPStatus.OK:
                        download.begin(response)
                    case HTTPStatus.PARTIAL_CONTENT:
                        download.go_on(response)
                    case _:
                        await _explain_status(response)
                async for part in response.content.iter_chunked(_PART_BYTES):
                    await run_blocking(lambda: download.feed(part))  # noqa: B023 - it is called here
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if download.is_missing_bytes or not download.can_resume:
                # Not in aiohttp's words: its exceptions contain the request's headers.
                raise _CutOffError(f"no snapshot from the receiver ({type(error).__name__})") from None
        if download.is_missing_bytes:
            raise _CutOffError("no whole snapshot from the receiver (its answer ended early)")

    def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            token = read_secret_file(self._token_file, self._token_variable).decode("ascii")
        except ConfigurationError as error:
            raise OptOutStreamError(str(error)) from None
        except UnicodeDecodeError:
            raise OptOutStreamError(f"{self._token_variable}: not ASCII") from None
        return {"Authorization": f"Bearer {token}"}


async def _explain_status(response: aiohttp.ClientResponse) -> None:
    """Raise what an answer other than 200 means."""
    try:
        retry_after_s = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        retry_after_s = 0.0
    status = response.status
    response.close()
    if retry_after_s > 0:
        await asyncio.sleep(min(retry_after_s, _MAX_RETRY_AFTER_S))
    match status:
        case 401 | 403:
            raise OptOutStreamError(f"the receiver answers {status}: its bearer token is another one")
        case 503:
            raise _CutOffError("the receiver has no complete snapshot now, or many hosts get one (503)")
        case 429 | 500 | 502 | 504:
            raise _CutOffError(f"the receiver answers {status} to the request for a snapshot")
    raise OptOutStreamError(f"the receiver answers {status} to the request for a snapshot")


class _CutOffError(OptOutStreamError):
    """What has begun to arrive may be resumed."""
