"""Sends the same request several times with a client in its default settings, and prints each answer.

Arguments: aiohttp, httpx, requests or urllib3; URL; BODY; COUNT. Only that client has to be installed.
"""

# ruff: noqa: PLC0415

import asyncio
import sys
from collections.abc import Callable

_JSON = {"Content-Type": "application/json"}


def _write(status: int, body: str) -> None:
    sys.stdout.write(f"{status} {body}\n")


async def _aiohttp(url: str, body: str, count: int) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            async with session.post(url, data=body, headers=_JSON) as answer:
                _write(answer.status, await answer.text())


def _httpx(url: str, body: str, count: int) -> None:
    import httpx

    with httpx.Client() as client:
        for _ in range(count):
            answer = client.post(url, content=body, headers=_JSON)
            _write(answer.status_code, answer.text)


def _requests(url: str, body: str, count: int) -> None:
    import requests

    with requests.Session() as session:
        for _ in range(count):
            answer = session.post(url, data=body, headers=_JSON)
            _write(answer.status_code, answer.text)


def _urllib3(url: str, body: str, count: int) -> None:
    import urllib3

    pool = urllib3.PoolManager()
    for _ in range(count):
        answer = pool.request("POST", url, body=body, headers=_JSON)
        _write(answer.status, answer.data.decode())


_POSTS: dict[str, Callable[[str, str, int], None]] = {
    "aiohttp": lambda url, body, count: asyncio.run(_aiohttp(url, body, count)),
    "httpx": _httpx,
    "requests": _requests,
    "urllib3": _urllib3,
}

if __name__ == "__main__":
    _POSTS[sys.argv[1]](sys.argv[2], sys.argv[3], int(sys.argv[4]))
