"""A connection to the Redis or Valkey server with the stream of opt-outs.

After any error the connection is closed. The next call makes a new one: it resolves the name and reads the password
again, so that fail-overs and rotated passwords need no restart.
"""

import asyncio
import hashlib
import random
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from bidstream_svc.core.errors import ConfigurationError, OptOutStreamError
from bidstream_svc.files import read_secret_file
from bidstream_svc.optouts.stream_entries import Appended, StreamEntry, Tip, parse_appended, parse_entry, parse_tip
from bidstream_svc.optouts.stream_scripts import APPEND, INSPECT

DEFAULT_RETENTION_MS = 7 * 24 * 3_600_000
DEFAULT_IDLE_MS = 3_600_000
EPOCH_BYTES = 16
_CONNECT_TIMEOUT_S = 5.0
_MAX_RANDOM = 2**40  # exact as a number of Lua
_random = random.SystemRandom()


class StreamSettings(NamedTuple):
    """Where the stream is.

    Attributes:
        url: `redis://HOST:PORT/DB`, `rediss://...` for TLS, or `unix:///PATH?db=DB`.
        name: the stream's key.
        password_file: a file with PASSWORD or USER:PASSWORD, read for each connection; None for no password.
        password_variable: the environment variable that names this file, for errors.
        retention_ms: how long an entry stays in the stream.
        idle_ms: age of the last entry after which an empty one is appended.
        timeout_s: longest wait for an answer.
    """

    url: str
    name: str
    password_file: Path | None = None
    password_variable: str = "BIDSTREAM_OPTOUT_STREAM_PASSWORD_FILE"  # noqa: S105 - the name of a variable
    retention_ms: int = DEFAULT_RETENTION_MS
    idle_ms: int = DEFAULT_IDLE_MS
    timeout_s: float = 5.0


class StreamClient:
    """Calls the server over one connection. For one task at a time; close it at the end.

    Every method raises OptOutStreamError if the server cannot be reached, refuses, or does not answer in time. A call
    that changes something may have been carried out all the same.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings
        self._client: redis.asyncio.Redis | None = None

    async def append(self, own: str, known: str, optouts: bytes, *, epoch: bytes, lost: str = "") -> Appended | None:
        """Append an entry, or check the stream.

        Args:
            own: the id of the last entry that this caller has appended; empty for none.
            known: the newest id that this caller has seen; empty for none. If the stream is empty, it has lost that.
            optouts: packed; if empty, an entry is appended only if there is none, or if the last one is old.
            epoch: that of the stream if this begins one.
            lost: the id of an entry that the server has lost, of which readers have to be told.

        Returns:
            The last entry of the stream; None if `own`, which is younger than the retention, is not in the stream any
            more, and nothing has been appended.
        """
        settings = self.settings
        drawn = str(_random.randrange(_MAX_RANDOM))
        times = str(settings.retention_ms), str(settings.idle_ms)
        return parse_appended(await self._run_script(APPEND, own, known, epoch.hex(), drawn, optouts, lost, *times))

    async def inspect(self, known: Sequence[str] = ()) -> Tip:
        """Return where the stream begins and ends, and which of these ids, the newest first, it holds first."""
        return parse_tip(await self._run_script(INSPECT, *known), known)

    async def read(self, after: str, count: int, block_ms: int) -> tuple[list[StreamEntry], str]:
        """Read up to `count` entries with larger ids than `after`, waiting for the first up to `block_ms`.

        Returns:
            Those that are ours, and the id of the last one read, which is `after` if there was none.
        """
        answer = await self._call("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", self.settings.name, after)
        if not answer:
            return [], after
        found = answer[0][1]
        entries = [parse_entry(entry_id, fields) for entry_id, fields in found]
        return [entry for entry in entries if entry is not None], found[-1][0].decode()

    async def is_cut_off(self) -> bool:
        """Whether the server is a replica that has lost its primary, so that its stream may be old."""
        try:
            role = await self._call("ROLE")
        except _RefusedError:
            return False  # not everyone may ask
        return bool(role[0] == b"slave" and role[3] != b"connected")

    async def close(self) -> None:
        """Close the connection. The next call makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(RedisError, OSError):
                await client.aclose()

    async def _run_script(self, script: str, *arguments: str | bytes) -> Any:
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        try:
            return await self._call("EVALSHA", digest, 1, self.settings.name, *arguments)
        except _NoSuchScriptError:
            return await self._call("EVAL", script, 1, self.settings.name, *arguments)

    async def _call(self, *command: str | bytes | int) -> Any:
        _check_cancelled()
        try:
            if self._client is None:
                self._client = self._connect()
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise _NoSuchScriptError("the script is not cached") from None
        except (RedisError, OSError, TimeoutError, ssl.SSLError) as error:
            await self.close()
            raise _explain(error) from None
        except BaseException:
            await self.close()  # cancelled: the answer would be read as that of the next call
            raise

    def _connect(self) -> redis.asyncio.Redis:
        settings = self.settings
        username, password = self._read_password()
        return redis.asyncio.Redis.from_url(
            settings.url,
            username=username,
            password=password,
            single_connection_client=True,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=settings.timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=False,
        )

    def _read_password(self) -> tuple[str | None, str | None]:
        settings = self.settings
        if settings.password_file is None:
            return None, None
        try:
            secret = read_secret_file(settings.password_file, settings.password_variable).decode()
        except ConfigurationError as error:
            raise OptOutStreamError(str(error)) from None
        except UnicodeDecodeError:
            raise OptOutStreamError(f"{settings.password_variable}: not UTF-8") from None
        user, colon, password = secret.partition(":")
        return (user or None, password) if colon else (None, secret)


def _check_cancelled() -> None:
    """Raise CancelledError again in a task that has been cancelled: on a busy machine, the client has swallowed one."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _NoSuchScriptError(Exception):
    """The server does not have the script yet."""


class _RefusedError(OptOutStreamError):
    """The server understood the command and refused it."""


def _explain(error: BaseException) -> OptOutStreamError:
    """Say in one line what is wrong. Not in the server's words, which may quote arguments."""
    match error:
        case AuthenticationError():
            return OptOutStreamError("the server refuses the password")
        case NoPermissionError():
            return _RefusedError("the server's access rules forbid a command that is needed")
        case ReadOnlyError():
            return OptOutStreamError("the server is a read-only replica")
        case OutOfMemoryError():
            return OptOutStreamError("the server is out of memory (maxmemory)")
        case ResponseError():
            return _explain_response(str(error))
        case TimeoutError() | redis.exceptions.TimeoutError():
            return OptOutStreamError("no answer in time")
    return OptOutStreamError(f"cannot reach the server ({type(error).__name__})")


_RESPONSES = {
    "WRONGTYPE": "the name belongs to a key that is not a stream",
    "NOAUTH": "the server requires a password",
    "WRONGPASS": "the server refuses the password",
    "OOM": "the server is out of memory (maxmemory)",
    "READONLY": "the server is a read-only replica",
    "NOPERM": "the server's access rules forbid a command that is needed",
    "NOREPLICAS": "the server has too few replicas to accept writes",
    "MISCONF": "the server cannot write to its disk and accepts no writes",
}


def _explain_response(message: str) -> OptOutStreamError:
    for word, explanation in _RESPONSES.items():
        if word in message:
            return OptOutStreamError(explanation)
    return _RefusedError("the server refuses a command, or the stream is not one of this program")
