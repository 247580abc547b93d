#!/usr/bin/env python3
"""A bidder's client of the sidecar on asyncio; README.md explains it.

    bidder.py ADDRESS [TIMEOUT_MS [IDLE_MS]]

Needs Python 3.11 and aiohttp.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp

MAX_CONNECTIONS = 64
JSON = {"Content-Type": "application/json"}
Result = TypeVar("Result")


class Verdict(NamedTuple):
    """The sidecar's answer for one token: uid is None unless the status is SUCCESS, scope is UID2 or EUID if known."""

    status: str
    uid: str | None = None
    scope: str | None = None


NO_VERDICT = Verdict("NO_VERDICT")


class UnusableAnswerError(Exception):
    """The status is not 200."""


class SidecarClient:
    """Holds the pool of connections. Use one per process, as a context manager around the whole run."""

    def __init__(self, address: str, timeout_s: float = 0.005, idle_s: float = 60.0) -> None:
        self._is_unix = address.startswith("unix:")
        self._address = address.removeprefix("unix:").rstrip("/")
        self._timeout_s = timeout_s
        self._idle_s = idle_s

    async def __aenter__(self) -> Self:
        connector: aiohttp.BaseConnector
        if self._is_unix:
            connector = aiohttp.UnixConnector(self._address, limit=MAX_CONNECTIONS, keepalive_timeout=self._idle_s)
        else:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=self._idle_s)
        base_url = "http://localhost" if self._is_unix else self._address
        self._session = aiohttp.ClientSession(base_url, connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self._session.close()

    async def raw_ids(self, bid_request: bytes) -> list[Verdict]:
        """Return the raw uids to bid with, if any. Never raises, and returns within the timeout."""

        def read(answer: Any) -> list[Verdict]:
            return [Verdict(found["status"], found["uid"], found["scope"]) for found in answer["ids"]]

        verdicts = await self._ask("/openrtb", bid_request, read) or []
        failures = Counter(verdict.status for verdict in verdicts if verdict.status != "SUCCESS")
        for status, count in failures.items():
            sys.stderr.write(f"not decrypted: {status} {count}\n")
        return [verdict for verdict in verdicts if verdict.status == "SUCCESS"]

    async def decrypt(self, domain: str | None, tokens: Sequence[str]) -> list[Verdict]:
        """Return the verdicts for tokens, in order. Never raises, and returns within the timeout."""
        requests = [{"token": token, "domain": domain} for token in tokens]

        def read(results: Sequence[Any]) -> list[Verdict]:
            return [Verdict(result["status"], result["uid"]) for _, result in zip(tokens, results, strict=True)]

        if len(requests) == 1:
            verdicts = await self._ask("/decrypt", json.dumps(requests[0]).encode(), lambda answer: read([answer]))
        else:
            body = json.dumps({"requests": requests}).encode()
            verdicts = await self._ask("/decrypt/batch", body, lambda answer: read(answer["results"]))
        return [NO_VERDICT] * len(tokens) if verdicts is None else verdicts

    async def _ask(self, path: str, body: bytes, read: Callable[[Any], Result]) -> Result | None:
        """Return what `read` makes of the answer, or None without a usable answer in time."""
        try:
            async with asyncio.timeout(self._timeout_s):  # covers connecting, both attempts and the response body
                answer = await self._post(path, body)
            return read(answer)
        except UnusableAnswerError as error:
            reason = str(error)
        except (TimeoutError, aiohttp.ClientError, ValueError, TypeError, LookupError) as error:
            reason = type(error).__name__  # the message could quote what was received
        sys.stderr.write(f"no verdict: {reason}\n")  # with real traffic, count by reason
        return None

    async def _post(self, path: str, body: bytes) -> Any:
        try:
            return await self._post_once(path, body)
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientConnectionError:
            # Most likely the sidecar closed the idle connection. Retrying is safe: the answer is the same.
            return await self._post_once(path, body)

    async def _post_once(self, path: str, body: bytes) -> Any:
        async with self._session.post(path, data=body, headers=JSON, allow_redirects=False) as response:
            if response.status != 200:  # noqa: PLR2004 - HTTP
                raise UnusableAnswerError(f"HTTP {response.status}")
            return await response.json()


async def main(address: str, timeout_ms: str = "5", idle_ms: str = "60000") -> None:
    """Read lines from stdin: bid requests in JSON, or a domain or nothing, then tokens, separated by tabs."""
    async with SidecarClient(address, float(timeout_ms) / 1000, float(idle_ms) / 1000) as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.startswith("{"):
                ids = [f"{found.scope}:{found.uid}" for found in await client.raw_ids(line.encode())]
                sys.stdout.write(f"{' '.join(ids) or '-'}\n")
                sys.stdout.flush()
                continue
            domain, *tokens = line.rstrip("\n").split("\t")
            for verdict in await client.decrypt(domain or None, tokens):
                sys.stdout.write(f"{verdict.status} {verdict.uid or '-'}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
