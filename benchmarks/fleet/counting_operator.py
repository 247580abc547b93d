"""An operator for the real run: `python -m benchmarks.fleet.counting_operator PORT DIRECTORY`.

It serves keys as `benchmarks.keyserver` does, those of `0.json`. `POST /rotate` makes it serve `1.json`, and
`GET /seen` returns [seconds of the monotonic clock, bytes of the answer] of each request.
"""

import os
import sys
import time
from pathlib import Path

from aiohttp import web

from benchmarks.keyserver import CLIENT_SECRET
from bidstream_svc.core.crypto import GCM_IV_LENGTH, Envelope, open_request, seal_response


def make_app(directory: Path) -> web.Application:
    """Return the application."""
    keys = [(directory / f"{generation}.json").read_bytes() for generation in range(2)]
    seen: list[tuple[float, int]] = []

    async def hand_out_keys(request: web.Request) -> web.Response:
        arrived_s = time.monotonic()
        nonce = open_request(CLIENT_SECRET, await request.read()).nonce
        content = Envelope(time.time_ns() // 1_000_000, nonce, keys[0])
        body = seal_response(CLIENT_SECRET, os.urandom(GCM_IV_LENGTH), content)
        seen.append((arrived_s, len(body)))
        return web.Response(body=body)

    async def rotate(_request: web.Request) -> web.Response:
        keys[0] = keys[1]
        return web.json_response(time.monotonic())

    async def tell(_request: web.Request) -> web.Response:
        return web.json_response(seen)

    app = web.Application()
    app.router.add_post("/v2/key/bidstream", hand_out_keys)
    app.router.add_post("/rotate", rotate)
    app.router.add_get("/seen", tell)
    return app


if __name__ == "__main__":
    web.run_app(make_app(Path(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), print=None)
