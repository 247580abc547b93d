"""A uvloop server that gives the same answer to whatever it receives, without reading it: the limit of any service.

`python -m benchmarks.targets.fixed_answer PORT SOCKET BODY`. A request must arrive in one segment, and the next one
after its answer, as the load generator sends them.
"""

import asyncio
import sys
from typing import cast

import uvloop

_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class FixedAnswer(asyncio.Protocol):
    """One connection."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, _data: bytes) -> None:
        """Answer a request."""
        self._transport.write(self._answer)


async def serve(port: int, path: str, body: bytes) -> None:
    """Serve until the process is stopped."""
    answer = (_HEAD % len(body)).encode() + body
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: FixedAnswer(answer), "127.0.0.1", port)
    await loop.create_unix_server(lambda: FixedAnswer(answer), path)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()))
