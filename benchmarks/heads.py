"""Request heads: the plain one, one with `traceparent`, and those that stock HTTP clients send.

A file has the heads of a client as text: lines that begin with `#` are comments, and an empty line ends a head. Target,
`Host` and `Content-Length` are replaced; everything else is sent as the client spells it.
"""

import re
from pathlib import Path

PLAIN = b"POST /decrypt HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
# The load generator replaces the digits of the traceparent in each request.
TRACED = PLAIN.replace(
    b"Content-Length", b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nContent-Length"
)

_RECORDED = Path(__file__).parents[1] / "tests" / "data" / "stock_heads"
_TARGET = re.compile(rb"\APOST \S+")
_HOST = re.compile(rb"^(host: ?)[^\r]*", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^(content-length: ?)\d+", re.IGNORECASE | re.MULTILINE)


def with_body(head: bytes, body: bytes, path: bytes = b"/decrypt") -> bytes:
    """Return a request: this head with the path and the length of the body, and the body."""
    head = _TARGET.sub(b"POST " + path, head)
    return _LENGTH.sub(b"\\g<1>%d" % len(body), head) + body


def stock_heads() -> dict[str, list[bytes]]:
    """Return client -> its heads: those recorded for the tests, or where there are none, those that are documented.

    Heads without Content-Length, whose body is chunked, are left out, because the fast path does not read them.
    """
    return {path.stem: _read(path) for path in sorted(_RECORDED.glob("*.txt"))}


def _read(path: Path) -> list[bytes]:
    lines = [line for line in path.read_bytes().splitlines() if not line.startswith(b"#")]
    heads = [head + b"\r\n\r\n" for head in b"\r\n".join(lines).strip().split(b"\r\n\r\n")]
    with_length = [_HOST.sub(b"\\g<1>127.0.0.1:8080", head) for head in heads if _LENGTH.search(head)]
    if len(with_length) < len(heads):
        print(f"{path.name}: {len(heads) - len(with_length)} heads left out, no Content-Length")
    # Without those that differ in their Content-Length only.
    return list(dict.fromkeys(_LENGTH.sub(b"\\g<1>0", head) for head in with_length))
