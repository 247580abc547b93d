"""Write own.json, keys.json and envelopes.json: `python -m tests.vectors.generate`.

Nothing here is random, so the files come out the same each time; a test holds them to that. published_client.json was
made once by another implementation, with random ivs of its own, and is only kept.

A record of own.json: `name`; `line` of the verdict order that it is about; `provenance`; `keys`, a name in keys.json or
null for none loaded; `token`; `domain`; `now_ms`; and the expected `status`, `reason`, `uid`, `established` (Unix ms).
Where there is an opt-out store, `optouts` has the raw uids in it, by programme; or it is "not synced".
The expectations are stated by hand, they are not computed.
"""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from bidstream_svc.core.crypto import Envelope, seal_request, seal_response
from tests.vectors import line_11, lines_1_to_6, lines_7_to_10, lines_12_to_14
from tests.vectors.inputs import KEY_RESPONSES, NOW_MS

_ENVELOPE_SECRET = b"made-up client secret, 32 bytes!"
_ENVELOPE_IV = bytes(range(0xA0, 0xAC))
_ENVELOPE_NONCE = bytes(range(0xB0, 0xB8))


def contents() -> dict[str, str]:
    """File name -> what it must hold."""
    own = [vector for part in (lines_1_to_6, lines_7_to_10, line_11, lines_12_to_14) for vector in part.vectors()]
    return {"keys.json": _pretty(KEY_RESPONSES), "own.json": _pretty(own), "envelopes.json": _pretty(_envelopes())}


def _pretty(data: Any) -> str:
    return json.dumps(data, indent=1) + "\n"


def _envelopes() -> list[dict[str, Any]]:
    bodies = {
        "JSON": b'{"email": "validate@example.com"}',
        "no body": b"",
        "outside ASCII": '{"text": "\u017e\u00e9"}'.encode(),
    }
    return [
        {
            "name": f"{kind}, {name}",
            "provenance": f"{seal.__name__} of this package",
            "kind": kind,
            "secret": b64encode(_ENVELOPE_SECRET).decode(),
            "iv_hex": _ENVELOPE_IV.hex(),
            "timestamp_ms": NOW_MS,
            "nonce_hex": _ENVELOPE_NONCE.hex(),
            "body": body.decode(),
            "wire": seal(_ENVELOPE_SECRET, _ENVELOPE_IV, Envelope(NOW_MS, _ENVELOPE_NONCE, body)).decode(),
        }
        for kind, seal in (("request", seal_request), ("response", seal_response))
        for name, body in bodies.items()
    ]


if __name__ == "__main__":
    for file_name, text in contents().items():
        Path(__file__).with_name(file_name).write_text(text)
