"""A connection to the Redis or Valkey server with the stream of opt-outs.

After an error the connection is closed, unless it is only that the server's access rules forbid a command. The next
call makes a new one: it resolves the name, and reads the password and the certificate authorities again, so that
fail-overs and rotation need no restart.
"""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, NoScriptError, RedisError

from bidstream_svc.core.errors import ConfigurationError, OptOutStreamError
from bidstream_svc.files import read_secret_file
from bidstream_svc.optouts.stream_entries import Appended, StreamEntry, Tip, parse_appended, parse_entry, parse_tip
from bidstream_svc.optouts.stream_failures import StreamRefusedError, explain_failure
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
        except StreamRefusedError:
            return False  # not everyone may ask
        return bool(role[0] == b"slave" and role[3] != b"connected")

    async def close(self) -> None:
        """Close the connection. The next call makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    async def _run_script(self, script: str, *arguments: str | bytes) -> Any:
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        try:
            return await self._call("EVALSHA", digest, 1, self.settings.name, *arguments)
        except _NoSuchScriptError:
            return await self._call("EVAL", script, 1, self.settings.name, *arguments)

    async def _call(self, *command: str | bytes | int) -> Any:
        try:
            client = await self._connect()
            async with asyncio.timeout(self.settings.timeout_s):
                return await client.execute_command(*command)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise _NoSuchScriptError("the script is not cached") from None
        except NoPermissionError as error:
            raise explain_failure(error) from None
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()
            raise explain_failure(error) from None
        except BaseException:
            await self.close()  # cancelled: the answer would be read as that of the next call
            raise

    async def _connect(self) -> redis.asyncio.Redis:
        """Return the open connection; make one if there is none."""
        settings = self.settings
        if self._client is None:
            username, password = self._read_password()
            client = redis.asyncio.Redis.from_url(
                settings.url,
                username=username,
                password=password,
                single_connection_client=True,
                socket_connect_timeout=_CONNECT_TIMEOUT_S,
                # The client would limit writing by `asyncio.wait_for`, which swallows a cancellation that comes in the
                # moment when all has been written (before Python 3.12).
                socket_timeout=None,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
                decode_responses=False,
            )
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S + settings.timeout_s):
                    await client.initialize()
            except BaseException:
                await _close(client)
                raise
            self._client = client
        return self._client

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


async def _close(client: redis.asyncio.Redis) -> None:
    with suppress(RedisError, OSError):
        await client.aclose()


class _NoSuchScriptError(Exception):
    """The server does not have the script yet."""
