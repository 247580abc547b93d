"""An operator that only serves keys, any number of them: `python -m benchmarks.keyserver PORT DIRECTORY`.

The embedded operator has a few keys only; the sweeps need up to 50,000. A request with the API key NAME gets the file
`NAME.json` in the directory.
"""

import os
import sys
import time
from pathlib import Path

import pybase64
from aiohttp import web

from bidstream_svc.core.crypto import GCM_IV_LENGTH, Envelope, open_request, seal_response

CLIENT_SECRET = bytes(range(32))  # synthetic
CLIENT_SECRET_BASE64 = pybase64.b64encode_as_string(CLIENT_SECRET)


def make_app(directory: Path) -> web.Application:
    """Return the application, which serves /v2/key/bidstream."""

    async def hand_out_keys(request: web.Request) -> web.Response:
        api_key = request.headers["Authorization"].removeprefix("Bearer ")
        nonce = open_request(CLIENT_SECRET, await request.read()).nonce
        keys = (directory / f"{api_key}.json").read_bytes()
        content = Envelope(time.time_ns() // 1_000_000, nonce, keys)
        return web.Response(body=seal_response(CLIENT_SECRET, os.urandom(GCM_IV_LENGTH), content))

    app = web.Application()
    app.router.add_post("/v2/key/bidstream", hand_out_keys)
    return app


if __name__ == "__main__":
    web.run_app(make_app(Path(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), print=None)
