"""A corpus of expensive requests, and random changes to a request, for `costliest`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from benchmarks.material import Sample

_DECRYPT, _BATCH = "/decrypt", "/decrypt/batch"
_MAX_BODY_BYTES = {_DECRYPT: 16 * 1024, _BATCH: 4 * 1024 * 1024}
_HEADERS = (b"Host: 127.0.0.1", b"Content-Type: application/json")
_MAX_HEADERS = 60


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request.

    Attributes:
        headers: header lines, without those that frame the body.
        new_headers: how many further headers have another name in every request, so that no memo helps.
        chunk_bytes: the length of the chunks of the body; None to send Content-Length.
        segment_bytes: the length of the segments in which it is sent; None for one write.
        pipelined: how many copies are sent before the first answer is read.
    """

    body: bytes
    path: str = _DECRYPT
    headers: tuple[bytes, ...] = _HEADERS
    new_headers: int = 0
    chunk_bytes: int | None = None
    segment_bytes: int | None = None
    pipelined: int = 1
    method: bytes = b"POST"

    def describe(self) -> str:
        """Return what can be told of it in a few words."""
        words = [f"body of {len(self.body)} bytes", f"{len(self.headers) + self.new_headers} headers"]
        words += [f"chunks of {self.chunk_bytes}"] if self.chunk_bytes else []
        words += [f"segments of {self.segment_bytes}"] if self.segment_bytes else []
        words += [f"{self.pipelined} pipelined"] if self.pipelined > 1 else []
        return ", ".join(words)

    def pieces(self, number: int) -> list[bytes]:
        """Return the bytes of the request with this number, in the pieces in which they are sent."""
        framing, body = b"Content-Length: %d" % len(self.body), self.body
        if self.chunk_bytes is not None:
            framing, body = b"Transfer-Encoding: chunked", _chunked(body, self.chunk_bytes)
        new = [b"X-%d-%d: y" % (number, n) for n in range(self.new_headers)]
        head = b"\r\n".join([b"%b %b HTTP/1.1" % (self.method, self.path.encode()), *self.headers, *new, framing])
        request = (head + b"\r\n\r\n" + body) * self.pipelined
        size = self.segment_bytes or len(request)
        return [request[start : start + size] for start in range(0, len(request), size)]


def _chunked(body: bytes, size: int) -> bytes:
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def corpus(samples: Sequence[Sample]) -> tuple[dict[str, Candidate], dict[str, dict[str, Candidate]]]:
    """Return a good request for each route, and expensive requests by route and name.

    Args:
        samples: client-side tokens, whose domain is checked.
    """
    good = Candidate(_single(samples[0]))
    batch = Candidate(_batch(samples), path=_BATCH)
    names = _slow_names()
    single = {f"domain: {name}": Candidate(_single(samples[0], text)) for name, text in names.items()}
    token = samples[0].token
    single |= {
        "good, pipelined": replace(good, pipelined=100),
        "token of 16 KiB": Candidate(_json({"token": (token * 60)[:16_000]})),
        "token of 16 KiB, base64 of version 2": Candidate(_json({"token": "AgAAAAE" + "A" * 16_000 + "A"})),
        "tree in an unknown field": Candidate(_fill(b"[],", b'{"token":"","x":[', b"0]}", 16_384)),
        "duplicate keys": Candidate(_fill('"token":"\u0130",'.encode(), b"{", b'"token":""}', 16_384)),
        "escapes": Candidate(_fill(b"\\n", b'{"token":"', b'"}', 16_384)),
        "32 headers": replace(good, headers=(*_HEADERS, *(b"X-%d: y" % n for n in range(28)))),
        "28 headers, always others": replace(good, new_headers=28),
        "1 header, always another": replace(good, new_headers=1),
        "27 headers, and always another": replace(good, headers=(*_HEADERS, *[b"X: y"] * 27), new_headers=1),
        "60 headers": replace(good, headers=(*_HEADERS, *(b"X-%d: y" % n for n in range(58)))),
        "long headers": replace(good, headers=(*_HEADERS, b"X: " + b"y" * 8_000)),
        "not a plain request": replace(good, headers=(*_HEADERS, b"TE: trailers")),
        "unknown path, pipelined": Candidate(
            b"", path="/", method=b"GET", headers=(b"Host: localhost",), pipelined=100
        ),
        "unknown path": Candidate(b"", path="/", method=b"GET", headers=(b"Host: localhost",)),
        "malformed": Candidate(b"", path="/", method=b"@", headers=()),
        "chunks of one byte": Candidate(_json({"token": "a" * 440}), chunk_bytes=1),
        "chunks of one byte, 16 KiB": Candidate(_json({"token": "a" * 16_000}), chunk_bytes=1),
        "chunks of 12 bytes, 16 KiB": Candidate(_json({"token": "a" * 16_000}), chunk_bytes=12),
        "segments of one byte": replace(good, segment_bytes=1),
        "segments of one byte, chunked": replace(good, segment_bytes=1, chunk_bytes=100),
    }
    worst = names["\u0130"]
    batches = {
        "batch: slow domains": Candidate(_batch([replace(each, domain=worst) for each in samples]), path=_BATCH),
        "batch: invalid elements": Candidate(_fill(b'{"token":""},', b'{"requests":[', b'{"token":""}]}'), path=_BATCH),
        "batch: tokens of 4 KiB": Candidate(
            _batch([replace(each, token=(each.token * 20)[:4_000]) for each in samples]), path=_BATCH
        ),
        "batch: trees": Candidate(b'{"y":0,"requests":[%b]}' % b",".join([_tree(4_000)] * 1000), path=_BATCH),
        "batch: large trees": Candidate(b'{"y":0,"requests":[%b]}' % b",".join([_tree(32_000)] * 125), path=_BATCH),
        "batch: numbers": Candidate(_fill(b"0,", b'{"x":[', b'0],"requests":[{"token":""}]}'), path=_BATCH),
        "batch: chunks of 12 bytes": replace(batch, chunk_bytes=12),
    }
    return {_DECRYPT: good, _BATCH: batch}, {_DECRYPT: single, _BATCH: batches}


def _slow_names() -> dict[str, str]:
    return {
        "\u0130": "\u0130" * 255,
        "long expansion": "\ufdfa" * 247 + ".xn--n3h",
        "short IDNA labels": "xn--fya." * 31,
        "combining marks": "a" + "\u0300\u0316" * 127,
        "labels": "a." * 127,
    }


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _single(sample: Sample, domain: str | None = None) -> bytes:
    return _json({"token": sample.token, "domain": domain or sample.domain})


def _batch(samples: Sequence[Sample]) -> bytes:
    return _json({"requests": [{"token": each.token, "domain": each.domain} for each in samples]})


def _tree(size: int) -> bytes:
    return _fill(b"[[[[[]]]]],", b'{"x":[', b'0],"token":"abcd"}', size)


def _fill(unit: bytes, before: bytes, behind: bytes, size: int = 4 * 1024 * 1024) -> bytes:
    return before + unit * ((size - len(before) - len(behind)) // len(unit)) + behind


_BODY_FRAGMENTS: Sequence[bytes] = (
    *("\u0130".encode(), "\ufdfa".encode(), "\u0300\u0316".encode()),
    *(b"xn--", b"xn--fya.", b".", b"\\n", b"\\u0130", b"-", b"=", b"A"),
    *(b"[", b"]", b"[],", b'{"":0},', b"0,", b'"",', b" "),
    *(b'"token":"",', b'"domain":"",', b'{"token":""},'),
)
_HEADER_FRAGMENTS: Sequence[bytes] = (
    *(b"X: y", b"Accept: */*", b"TE: trailers", b"Connection: keep-alive", b"Expect: 100-continue"),
    b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    b"Cookie: " + b"a=b; " * 200,
    b"Content-Type: application/json;" + b";" * 500,
    b"Authorization: Bearer " + b"a" * 500,
)
_MAX_ADDED_HEADER_BYTES = 12_000


def mutate(candidate: Candidate, random: Random) -> Candidate:
    """Return a request with a few random changes, within the limits of lengths."""
    for _ in range(random.randint(1, 3)):
        candidate = random.choice(_MUTATIONS)(candidate, random)
    return candidate


def _insert(candidate: Candidate, random: Random) -> Candidate:
    """Put a fragment, many times, in place of a part of the body."""
    body = candidate.body
    start = random.randrange(len(body) + 1)
    inserted = random.choice(_BODY_FRAGMENTS) * random.choice((1, 10, 60, 250, 4000))
    body = body[:start] + inserted + body[start + random.choice((0, 0, len(inserted))) :]
    return replace(candidate, body=body[: _MAX_BODY_BYTES.get(candidate.path, 0)])


def _repeat(candidate: Candidate, random: Random) -> Candidate:
    """Repeat a part of the body."""
    body = candidate.body
    start = random.randrange(len(body) + 1)
    part = body[start : start + random.choice((1, 5, 30, 300))]
    body = body[:start] + part * random.choice((2, 20, 200)) + body[start + len(part) :]
    return replace(candidate, body=body[: _MAX_BODY_BYTES.get(candidate.path, 0)])


def _change_headers(candidate: Candidate, random: Random) -> Candidate:
    count = random.choice((1, 1, 10, 40))
    added = tuple(random.choice(_HEADER_FRAGMENTS) for _ in range(count))
    if sum(map(len, added)) > _MAX_ADDED_HEADER_BYTES:
        added = added[:1]
    return replace(candidate, headers=(candidate.headers + added)[: _MAX_HEADERS - candidate.new_headers])


def _rename_headers(candidate: Candidate, random: Random) -> Candidate:
    """Use other names, which no memo knows."""
    return replace(candidate, headers=_HEADERS, new_headers=random.choice((0, 1, 8, 28, 29, 50)))


def _change_framing(candidate: Candidate, random: Random) -> Candidate:
    return replace(candidate, chunk_bytes=random.choice((None, 1, 8, 12, 16, 64, 1000)))


def _change_segments(candidate: Candidate, random: Random) -> Candidate:
    segment_bytes = random.choice((None, None, 100, 1000, 10_000))
    return replace(candidate, segment_bytes=segment_bytes, pipelined=random.choice((1, 1, 2, 20)))


_MUTATIONS = (_insert, _insert, _repeat, _repeat, _change_headers, _rename_headers, _change_framing, _change_segments)
