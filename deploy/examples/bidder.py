#!/usr/bin/env python3
"""A bidder's client of the sidecar on asyncio; README.md explains it.

    bidder.py ADDRESS [TIMEOUT_MS [IDLE_MS]]

Needs Python 3.11 and aiohttp.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import aiohttp

MAX_CONNECTIONS = 64


class Verdict(NamedTuple):
    """The sidecar's answer for one token; uid is None unless the status is SUCCESS."""

    status: str
    uid: str | None = None


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

    async def decrypt(self, domain: str | None, tokens: Sequence[str]) -> list[Verdict]:
        """Return the verdicts for a bid request's tokens, in order. Never raises, and returns within the timeout."""
        requests = [{"token": token, "domain": domain} for token in tokens]
        try:
            async with asyncio.timeout(self._timeout_s):  # covers connecting, both attempts and the response body
                if len(requests) == 1:
                    results = [await self._post("/decrypt", requests[0])]
                else:
                    results = (await self._post("/decrypt/batch", {"requests": requests}))["results"]
            return [Verdict(result["status"], result["uid"]) for _, result in zip(tokens, results, strict=True)]
        except UnusableAnswerError as error:
            reason = str(error)
        except (TimeoutError, aiohttp.ClientError, ValueError, TypeError, LookupError) as error:
            reason = type(error).__name__  # the message could quote what was received
        sys.stderr.write(f"no verdict: {reason}\n")  # with real traffic, count by reason
        return [NO_VERDICT] * len(tokens)

    async def _post(self, path: str, body: object) -> Any:
        try:
            return await self._post_once(path, body)
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientConnectionError:
            # Most likely the sidecar closed the idle connection. Retrying is safe: the answer is the same.
            return await self._post_once(path, body)

    async def _post_once(self, path: str, body: object) -> Any:
        async with self._session.post(path, json=body, allow_redirects=False) as response:
            if response.status != 200:  # noqa: PLR2004 - HTTP
                raise UnusableAnswerError(f"HTTP {response.status}")
            return await response.json()


async def main(address: str, timeout_ms: str = "5", idle_ms: str = "60000") -> None:
    """Read bid requests from stdin, one a line: the domain or nothing, then tokens, separated by tabs."""
    async with SidecarClient(address, float(timeout_ms) / 1000, float(idle_ms) / 1000) as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            domain, *tokens = line.rstrip("\n").split("\t")
            for verdict in await client.decrypt(domain or None, tokens):
                sys.stdout.write(f"{verdict.status} {verdict.uid or '-'}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
