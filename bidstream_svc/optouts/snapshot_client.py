"""Gets a snapshot from a receiver over HTTP and merges it into the store."""

import asyncio
from pathlib import Path

import aiohttp
from yarl import URL

from bidstream_svc._version import __version__
from bidstream_svc.core.errors import ConfigurationError, OptOutStreamError
from bidstream_svc.files import read_secret_file
from bidstream_svc.optouts.blocking import run_blocking
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import SnapshotMerger

# In the query, with the id of a receiver's store: a snapshot may be incomplete, but not that receiver's own.
INCOMPLETE_FOR = "incomplete_for"
INCOMPLETE_HEADER = "Bidstream-Incomplete"
_PART_BYTES = 1024 * 1024
_MAX_RETRY_AFTER_S = 60.0
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
        """Get a snapshot from its beginning to its end, and merge it.

        Returns:
            Its position in the stream; None for one of another receiver from which opt-outs may be missing, too.

        Raises:
            OptOutStreamError: no receiver can be reached or has a snapshot. If one says when to ask again, after that.
            OptOutRecordError: it is damaged or was cut short.
            OptOutStoreError: the store cannot be written.
        """
        headers = {"User-Agent": f"bidstream-svc/{__version__}", "Accept-Encoding": "identity", **self._authorization()}
        merger = SnapshotMerger(self._store)
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, auto_decompress=False) as session,
                session.get(self._url, headers=headers, allow_redirects=False, read_bufsize=_PART_BYTES) as response,
            ):
                if response.status != 200:  # noqa: PLR2004
                    await _explain_status(response)
                is_incomplete = INCOMPLETE_HEADER in response.headers
                async for part in response.content.iter_chunked(_PART_BYTES):
                    await run_blocking(lambda: merger.feed(part))  # noqa: B023 - it is called here
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Not in aiohttp's words: its exceptions contain the request's headers.
            raise OptOutStreamError(f"no snapshot from the receiver ({type(error).__name__})") from None
        header = await run_blocking(merger.finish)
        if is_incomplete:
            return None
        if header.position is None:
            raise OptOutStreamError("the receiver's snapshot has no position in the stream")
        return header.position

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
            raise OptOutStreamError("the receiver has no complete snapshot now (503)")
    raise OptOutStreamError(f"the receiver answers {status} to the request for a snapshot")
