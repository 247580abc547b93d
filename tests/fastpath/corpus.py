"""Requests of every kind with their expected answers; each run compares them with aiohttp's again.

A case is a list of requests, sent one behind the other on one connection. What comes of it is written as the status
codes, and "close" if the server then ends the connection, "wait" if it waits for more.
"""

import json
from typing import NamedTuple

from bidstream_svc.devoperator import OperatorState

STATE = OperatorState(seed=5)
TOKEN = STATE.mint_token()
BODY = b'{"token":"abcd"}'  # short, because it is cut everywhere
BEARER = "s\u00e9cret"  # not ASCII: how a header is decoded must not matter


class Case(NamedTuple):
    """Requests and what comes of them."""

    requests: list[bytes]
    outcome: str


def make(
    body: bytes | dict[str, object] = BODY,
    *lines: str | bytes,
    target: str = "/decrypt",
    version: str = "1.1",
    method: str = "POST",
    host: str | None = "Host: localhost",
    length: str | None = "Content-Length: {}",
) -> bytes:
    """A request with these header lines between Host and Content-Length."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    first = [f"{method} {target} HTTP/{version}"] + ([] if host is None else [host])
    last = [] if length is None else [length.format(len(content))]
    head = [line if isinstance(line, bytes) else line.encode("utf-8") for line in (*first, *lines, *last)]
    return b"\r\n".join([*head, b"", content])


def batch(size: int, *lines: str) -> bytes:
    return make(
        {"requests": [{"token": TOKEN}] + [{"token": ""}] * (size - 1) if size else []}, *lines, target="/decrypt/batch"
    )


def chunked(*lines: str, target: str = "/decrypt", sizes: tuple[int, ...] = (5, 4), end: bytes = b"0\r\n\r\n") -> bytes:
    chunks, rest = [], BODY
    for size in (*sizes, len(BODY) - sum(sizes)):
        chunks.append(b"%x\r\n%b\r\n" % (size, rest[:size]))
        rest = rest[size:]
    return make(b"".join(chunks) + end, "Transfer-Encoding: chunked", *lines, target=target, length=None)


GOOD = make()
BATCH = batch(3)
LARGE_BATCH = batch(150)  # three turns
CHUNKED = chunked()
TYPED = make(BODY, "Content-Type: application/json", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b-01")

_PLAIN = {
    "good": Case([GOOD], "200 wait"),
    "two that succeed": Case([make({"token": TOKEN}), make({"token": TOKEN, "more": [1, "x"]})], "200 200 wait"),
    "ten": Case([GOOD] * 10, "200 " * 10 + "wait"),
    "two heads in turns": Case([GOOD, TYPED, GOOD, TYPED], "200 200 200 200 wait"),
    "same head, other length": Case([GOOD, make(b"{}"), GOOD], "200 400 200 wait"),
    "empty body": Case([make(b""), GOOD], "400 200 wait"),
    "not JSON": Case([make(b"{"), GOOD], "400 200 wait"),
    "not UTF-8": Case([make(b'{"token": "\xff"}'), GOOD], "400 200 wait"),
    "not the shape": Case([make({"token": 1}), make(b"[]"), make({"token": TOKEN, "domain": 5})], "400 400 400 wait"),
    "nested deep, not closed": Case([make(b'{"token":"a","x":' + b"[" * 5000 + b"}"), GOOD], "400 200 wait"),
    "every status of a token": Case(
        [
            make({"token": token, "domain": domain})
            for token in ("", "abcd", TOKEN, STATE.mint_token(2), STATE.mint_token(3), STATE.mint_token(lifetime_s=-1))
            for domain in (None, "example.com")
        ]
        + [
            make({"token": STATE.mint_token(client_side=True), "domain": name})
            for name in (None, "x.com", "example.org")
        ],
        "200 " * 15 + "wait",
    ),
    "longest body": Case([make(BODY + b" " * (16384 - len(BODY))), GOOD], "200 200 wait"),
}

_FRAMING = {
    "one byte too long": Case([make(BODY + b" " * (16385 - len(BODY)))], "413 wait"),
    "length far too long": Case([make(b"", length="Content-Length: 99999999999")], "413 wait"),
    "length beyond 64 bits": Case([make(b"", length="Content-Length: 99999999999999999999999")], "400 close"),
    "length of many nines": Case([make(b"", length="Content-Length: " + "9" * 3000)], "400 close"),
    "length with zeros": Case([make(length="Content-Length: 000{}"), GOOD], "200 200 wait"),
    "length with many zeros": Case([make(length="Content-Length: " + "0" * 3000 + "{}"), GOOD], "200 200 wait"),
    "length with blanks": Case([make(length="Content-Length: \t {} \t "), GOOD], "200 200 wait"),
    "length without blank": Case([make(length="Content-Length:{}"), GOOD], "200 200 wait"),
    "length in capitals": Case([make(length="CONTENT-LENGTH: {}"), GOOD], "200 200 wait"),
    "no length": Case([make(b"", length=None), GOOD], "400 200 wait"),
    "length, blank before colon": Case([make(length="Content-Length : {}")], "400 close"),
    "length with plus": Case([make(length="Content-Length: +{}")], "400 close"),
    "length negative": Case([make(length="Content-Length: -{}")], "400 close"),
    "length empty": Case([make(length="Content-Length: ")], "400 close"),
    "length of two": Case([make(length="Content-Length: {0}, {0}")], "400 close"),
    "length broken by blank": Case([make(length="Content-Length: 1 7")], "400 close"),
    "length in Arabic digits": Case([make(length="Content-Length: \u0661\u0667")], "400 close"),
    "length hexadecimal": Case([make(length="Content-Length: 0x{}")], "400 close"),
    "two equal lengths": Case([make(BODY, f"Content-Length: {len(BODY)}")], "400 close"),
    "two unequal lengths": Case([make(BODY, "Content-Length: 3")], "400 close"),
    "length and chunked": Case([make(BODY, "Transfer-Encoding: chunked")], "400 close"),
    "length folded": Case([make(length="Content-Length:\r\n {}")], "400 close"),
    "length too short": Case([make(BODY[:5], length="Content-Length: 5"), BODY[5:]], "400 400 close"),
    "chunked": Case([CHUNKED, GOOD, CHUNKED], "200 200 200 wait"),
    "chunked between": Case([GOOD, chunked(sizes=()), GOOD], "200 200 200 wait"),
    "chunks of one byte": Case([chunked(sizes=(1,) * 10)], "200 wait"),
    "chunk extension": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n5;a=b\r\n"), GOOD], "200 200 wait"),
    "trailer": Case([chunked("Trailer: X", end=b"0\r\nX: y\r\n\r\n"), GOOD], "200 200 wait"),
    "trailer of 16 KiB": Case([chunked(end=b"0\r\nX: %b\r\n\r\n" % (b"y" * 16_377)), GOOD], "200 200 wait"),
    "trailer of 16 KiB and 1": Case([chunked(end=b"0\r\nX: %b\r\n\r\n" % (b"y" * 16_378))], "431 close"),
    "trailer of many lines": Case([chunked(end=b"0\r\n" + b"X: y\r\n" * 5_000 + b"\r\n")], "431 close"),
    "chunk extension of 17 KiB": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n5;%b\r\n" % (b"x" * 17_408))], "431 close"),
    "chunk size, bare LF": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n5\n")], "400 close"),
    "chunk size with blanks": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n5 \r\n")], "400 close"),
    "chunk size negative": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n-5\r\n")], "400 close"),
    "chunk size empty": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n\r\n")], "400 close"),
    "chunk size hexadecimal": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n0x5\r\n")], "400 close"),
    "chunk size with zeros": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n0005\r\n"), GOOD], "200 200 wait"),
    "chunk size beyond 64 bits": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n" + b"f" * 17 + b"\r\n")], "400 close"),
    "chunk without an end": Case([CHUNKED.replace(b"\r\n4\r\n", b"xx4\r\n")], "400 close"),
    "trailer malformed": Case([chunked(end=b"0\r\nX y\r\n\r\n")], "400 close"),
    "trailer folded": Case([chunked(end=b"0\r\nX: y\r\n z\r\n\r\n")], "400 close"),
    "bad chunk of what is not read": Case(
        [chunked(target="/nowhere").replace(b"\r\n5\r\n", b"\r\nz\r\n")], "404 400 close"
    ),
    "chunk without an end, not read, then good": Case(
        [chunked(target="/nowhere").replace(b"\r\n4\r\n", b"xx4\r\n"), GOOD], "404 400 close"
    ),
    "trailer malformed, not read, then good": Case(
        [chunked(target="/nowhere", end=b"0\r\nX y\r\n\r\n"), GOOD], "404 400 close"
    ),
    "chunked, not read, then good": Case([chunked(target="/nowhere"), GOOD], "404 200 wait"),
    "trailer announced only": Case([make(BODY, "Trailer: X"), make(BODY, "TE: trailers"), GOOD], "200 200 200 wait"),
    "chunk size wrong": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\n4\r\n")], "400 close"),
    "chunk size no number": Case([CHUNKED.replace(b"\r\n5\r\n", b"\r\nz\r\n")], "400 close"),
    "chunked, too long": Case([chunked(sizes=(5,), end=b"4000\r\n" + b" " * 0x4000)], "413 wait"),
    "other coding": Case([make(BODY, "Transfer-Encoding: gzip", length=None)], "400 close"),
    "coding identity": Case([make(BODY, "Transfer-Encoding: identity")], "400 close"),
    "expect": Case([make(BODY, "Expect: 100-continue"), GOOD], "100 200 200 wait"),
    "expect in capitals": Case([GOOD, make(BODY, "EXPECT: 100-CONTINUE"), GOOD], "200 100 200 200 wait"),
    "expect something": Case([make(BODY, "Expect: miracles"), GOOD], "417 200 wait"),
    "expect, too long": Case([make(b"", "Expect: 100-continue", length="Content-Length: 16385")], "413 wait"),
    "content coding": Case([make(BODY, "Content-Encoding: gzip"), GOOD], "415 200 wait"),
    "line breaks between": Case([GOOD, b"\r\n" + GOOD, b"\r\n\r\n" + GOOD], "200 200 200 wait"),
}

_X_TO_16_KIB = "X: " + "x" * (16 * 1024 + len(BODY) - len(GOOD) - 5)
_HEADS = {
    "no host": Case([make(host=None)], "400 close"),
    "empty host": Case([make(host="Host:")], "400 close"),
    "another host": Case([GOOD, make(host="Host: example.com")], "200 400 close"),
    "this host": Case([make(host="hOST: \t[::1]:80 "), make(host="Host: 127.1.2.3:1")], "200 200 wait"),
    "an allowed host": Case([make(host="Host: b\u00fccher.example"), GOOD], "200 200 wait"),
    "two hosts": Case([make(BODY, "Host: localhost")], "400 close"),
    "two hosts that differ": Case([GOOD, make(BODY, "host: elsewhere")], "200 400 close"),
    "odd host": Case([make(host="Host: a b/@:c")], "400 close"),
    "two user agents": Case([make(BODY, "User-Agent: a", "User-Agent: b")], "400 close"),
    "two servers": Case([make(BODY, "Server: a", "server: b")], "400 close"),
    "two etags": Case([make(BODY, "ETag: a", "ETag: b")], "400 close"),
    "two of what may come once": Case([GOOD, make(BODY, "Max-Forwards: 1", "Max-Forwards: 1")], "200 400 close"),
    "two content ranges": Case([make(BODY, "Content-Range: x", "Content-Range: x")], "400 close"),
    "two content locations": Case([make(BODY, "Content-Location: x", "Content-Location: x")], "400 close"),
    "two accepts": Case([make(BODY, "Accept: a", "Accept: b", "X: 1", "X: 2"), GOOD], "200 200 wait"),
    "two content types": Case([make(BODY, "Content-Type: application/json", "Content-Type: text/plain")], "400 close"),
    "two equal content types": Case([make(BODY, *["Content-Type: application/json"] * 2)], "400 close"),
    "two codings": Case([chunked("Transfer-Encoding: chunked")], "400 close"),
    "two expectations": Case([make(BODY, *["Expect: 100-continue"] * 2), GOOD], "100 200 200 wait"),
    "two expectations that differ": Case([make(BODY, "Expect: 100-continue", "Expect: x"), GOOD], "417 200 wait"),
    "two traceparents": Case([TYPED.replace(b"traceparent", b"traceparent: 00-0-0-00\r\ntraceparent")], "200 wait"),
    "two authorizations": Case([make(BODY, "Authorization: Bearer a", "authorization: Bearer a")], "400 close"),
    "two empty authorizations": Case([make(BODY, "Authorization:", "Authorization:")], "400 close"),
    "two upgrades": Case([make(BODY, "Connection: Upgrade", *["Upgrade: h2c"] * 2), GOOD], "200 200 wait"),
    "old websocket": Case([make(BODY, "Sec-WebSocket-Key1: x")], "400 close"),
    "new websocket": Case([make(BODY, "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13"), GOOD], "200 200 wait"),
    "upgrade": Case([make(BODY, "Connection: upgrade", "Upgrade: h2c"), GOOD], "200 200 wait"),
    "upgrade to websocket": Case([make(BODY, "Connection: Upgrade", "Upgrade: websocket"), GOOD], "200 200 wait"),
    "upgrade of a GET": Case(
        [make(b"", "Connection: Upgrade", "Upgrade: h2c", method="GET", length=None), GOOD], "405 200 wait"
    ),
    "upgrade, chunked": Case([chunked("Connection: Upgrade", "Upgrade: h2c"), GOOD], "200 200 wait"),
    "upgrade with settings": Case(
        [make(BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), GOOD, GOOD],
        "200 200 200 wait",
    ),
    "upgrade with an empty body": Case([make(b"", "Connection: Upgrade", "Upgrade: h2c"), GOOD], "400 200 wait"),
    "upgrade in capitals": Case([make(BODY, "Connection: UPGRADE", "Upgrade: H2C"), GOOD], "200 200 wait"),
    "upgrade to several": Case([make(BODY, "Connection: Upgrade", "Upgrade: h2c, websocket"), GOOD], "200 200 wait"),
    "upgrade to something": Case([make(BODY, "Connection: Upgrade", "Upgrade: TLS/1.2"), GOOD], "200 200 wait"),
    "upgrade and close": Case([make(BODY, "Connection: Upgrade, close", "Upgrade: h2c"), GOOD], "200 close"),
    "settings only": Case([make(BODY, "HTTP2-Settings: AAMAAABk", "HTTP2-Settings: x"), GOOD], "200 200 wait"),
    "upgrade without connection": Case([make(BODY, "Upgrade: websocket"), GOOD], "200 200 wait"),
    "connection upgrade only": Case([make(BODY, "Connection: upgrade"), GOOD], "200 200 wait"),
    "close": Case([make(BODY, "Connection: close")], "200 close"),
    "close, and more": Case([GOOD, make(BODY, "Connection: Close"), GOOD], "200 200 close"),
    "close in a list": Case([make(BODY, "Connection: keep-alive, close")], "200 close"),
    "close behind keep-alive": Case([make(BODY, "Connection: keep-alive", "Connection: close")], "200 close"),
    "proxy close": Case([make(BODY, "Proxy-Connection: close")], "200 close"),
    "proxy keep-alive": Case([make(BODY, "Proxy-Connection: keep-alive"), GOOD], "200 200 wait"),
    "keep-alive": Case([make(BODY, "Connection: keep-alive"), GOOD], "200 200 wait"),
    "Keep-Alive": Case([make(BODY, "Connection: Keep-Alive", "Keep-Alive: timeout=5"), GOOD], "200 200 wait"),
    "connection empty": Case([make(BODY, "Connection:"), GOOD], "200 200 wait"),
    "connection options": Case([make(BODY, "Connection: keep-alive ,\tTE", "TE: trailers"), GOOD], "200 200 wait"),
    "connection options, one empty": Case([make(BODY, "Connection: keep-alive,, te"), GOOD], "200 200 wait"),
    "two connections": Case([make(BODY, "Connection: keep-alive", "Connection: TE"), GOOD], "200 200 wait"),
    "connection names the length": Case([make(BODY, "Connection: Content-Length"), GOOD], "200 200 wait"),
    "connection names the host": Case([make(BODY, "Connection: keep-alive, host"), GOOD], "200 200 wait"),
    "connection names authorization": Case([make(BODY, "Connection: Authorization"), GOOD], "200 200 wait"),
    "TE of several": Case([make(BODY, "TE: deflate;q=0.5, trailers", "TE: gzip"), GOOD], "200 200 wait"),
    "max forwards": Case([make(BODY, "Max-Forwards: 10"), make(BODY, "Max-Forwards: x"), GOOD], "200 200 200 wait"),
    "proxies and traces": Case(
        [
            make(
                BODY,
                *("Via: 1.1 a, 1.1 b", "Forwarded: for=x", "X-Forwarded-For: 192.0.2.1", "Cookie: a=b", "Cookie: c=d"),
                *("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate: a=b,c=d"),
                *("baggage: a=b;c", "Pragma: no-cache", "Cache-Control: no-cache, no-store", "Accept-Encoding: br"),
                *("Accept-Language: *", "Sec-Fetch-Mode: cors", "Priority: u=1, i", "Date: x", "Origin: null"),
            ),
            GOOD,
        ],
        "200 200 wait",
    ),
    "connection names a header": Case([make(BODY, "Connection: X-Mine", "X-Mine: 1"), GOOD], "200 200 wait"),
    "charset": Case([make(BODY, "Content-Type: application/json; charset=utf-8"), GOOD], "200 200 wait"),
    "JSON in capitals": Case([make(BODY, "Content-Type: APPLICATION/JSON ;x"), GOOD], "200 200 wait"),
    "JSON of a kind": Case([make(BODY, "Content-Type: application/openrtb+json"), GOOD], "200 200 wait"),
    "text": Case([make(BODY, "Content-Type: text/plain"), GOOD], "415 200 wait"),
    "form": Case([GOOD, make(BODY, "Content-Type: application/x-www-form-urlencoded"), GOOD], "200 415 200 wait"),
    "content type empty": Case([make(BODY, "Content-Type: "), GOOD], "415 200 wait"),
    "content type with odd blanks": Case([make(BODY, b"Content-Type: \xa0application/json\x85"), GOOD], "415 200 wait"),
    "header not ASCII": Case([make(BODY, "X: \u00fc", b"Y: \xff\x80"), GOOD], "200 200 wait"),
    "header empty": Case([make(BODY, "X:", "Y: ", "Z:\t"), GOOD], "200 200 wait"),
    "header with tabs": Case([make(BODY, "X:\ta\tb\t"), GOOD], "200 200 wait"),
    "header with colon": Case([make(BODY, "X:: a:b"), GOOD], "200 200 wait"),
    "header with NUL": Case([make(BODY, "X: a\x00b")], "400 close"),
    "header with control": Case([make(BODY, "X: a\x01b")], "400 close"),
    "header with DEL": Case([make(BODY, "X: a\x7fb")], "400 close"),
    "header without colon": Case([make(BODY, "nonsense")], "400 close"),
    "header without name": Case([make(BODY, ": x")], "400 close"),
    "header name with blank": Case([make(BODY, "X Y: x")], "400 close"),
    "header name not ASCII": Case([make(BODY, "\u00fc: x")], "400 close"),
    "header name odd but good": Case([make(BODY, "!#$%&'*+-.^_`|~9: x"), GOOD], "200 200 wait"),
    "header before the blank": Case([make(BODY, " X: y")], "400 close"),
    "folded": Case([make(BODY, "X: a\r\n b")], "400 close"),
    "folded by tab": Case([GOOD, make(BODY, "X: a\r\n\tb")], "200 400 close"),
    "bare LF": Case([GOOD.replace(b"\r\n", b"\n")], "400 close"),
    "one bare LF": Case([GOOD.replace(b"Host: localhost\r\n", b"Host: localhost\n")], "400 close"),
    "bare LF in a value": Case([make(BODY, "X: a\nY: b")], "400 close"),
    "bare LF at the end": Case([GOOD.replace(b"\r\n\r\n", b"\r\n\n")], "400 close"),
    "bare CR": Case([make(BODY, "X: a\rY: b")], "400 close"),
    "CR twice": Case([make(BODY, "X: a\r")], "400 close"),
    "32 headers": Case([make(BODY, *[f"X-{n}: x" for n in range(30)]), GOOD], "200 200 wait"),
    "33 headers": Case([make(BODY, *[f"X-{n}: x" for n in range(31)]), GOOD], "200 200 wait"),
    "64 headers": Case([make(BODY, *[f"X-{n}: x" for n in range(62)]), GOOD], "200 200 wait"),
    "65 headers": Case([make(BODY, *[f"X-{n}: x" for n in range(63)])], "431 close"),
    "head of 4 KiB": Case([make(BODY, "X: " + "x" * (4096 + len(BODY) - len(GOOD) - 5)), GOOD], "200 200 wait"),
    "head of 4 KiB and 1": Case([make(BODY, "X: " + "x" * (4097 + len(BODY) - len(GOOD) - 5)), GOOD], "200 200 wait"),
    "header of 8,189": Case([make(BODY, "X: " + "x" * 8189), GOOD], "200 200 wait"),
    "header of 9,000": Case([make(BODY, "X: " + "x" * 9000), GOOD], "200 200 wait"),
    "head of 16 KiB": Case([make(BODY, _X_TO_16_KIB), GOOD], "200 200 wait"),
    "head of 16 KiB and 1": Case([GOOD, make(BODY, _X_TO_16_KIB + "x")], "200 431 close"),
    "head of many long lines": Case([make(BODY, *[f"X-{n}: " + "x" * 8_000 for n in range(60)])], "431 close"),
    "target of 20 KiB": Case([GOOD, make(target="/" + "x" * 20_480)], "200 431 close"),
}

_LINES = {
    "GET": Case([make(b"", method="GET", length=None), GOOD], "405 200 wait"),
    "HEAD": Case([make(b"", method="HEAD", length=None), GOOD], "405 200 wait"),
    "method in small letters": Case([make(method="post")], "400 close"),
    "unknown method": Case([make(method="POSTS")], "400 close"),
    "nowhere": Case(
        [make(target="/"), make(target="/decrypts"), make(target="/decrypt/"), GOOD], "404 404 404 200 wait"
    ),
    "batch with slash": Case([make(target="/decrypt/batch/"), BATCH], "404 200 wait"),
    "other case": Case([make(target="/Decrypt"), GOOD], "404 200 wait"),
    "query": Case([make(target="/decrypt?a=b"), make(target="/decrypt?"), GOOD], "200 200 200 wait"),
    "fragment": Case([make(target="/decrypt#a"), GOOD], "200 200 wait"),
    "absolute": Case(
        [make(target="http://localhost/decrypt"), make(target="https://x:1/decrypt/batch")], "200 400 wait"
    ),
    "percent": Case([make(target="/%64ecrypt"), make(target="/decrypt%2Fbatch"), GOOD], "200 400 200 wait"),
    "dots": Case([make(target="/./decrypt"), make(target="/x/../decrypt"), GOOD], "404 404 200 wait"),
    "target not ASCII": Case([make(target="/decrypt\u00fc")], "400 close"),
    "star": Case([make(target="*")], "400 close"),
    "1.0": Case([make(version="1.0"), GOOD], "200 close"),
    "1.0 to be kept": Case([make(BODY, "Connection: keep-alive", version="1.0"), GOOD], "200 200 wait"),
    "1.0 without host": Case([make(version="1.0", host=None)], "200 close"),
    "1.2": Case([make(version="1.2")], "400 close"),
    "2.0": Case([make(version="2.0")], "200 close"),
    "0.9": Case([make(version="0.9")], "200 close"),
    "no version": Case([b"POST /decrypt\r\n\r\n"], "400 close"),
    "two blanks": Case([GOOD.replace(b"POST /", b"POST  /"), GOOD], "200 200 wait"),
    "blanks at the end": Case([GOOD.replace(b"HTTP/1.1\r", b"HTTP/1.1 \r")], "400 close"),
    "tab for blank": Case([GOOD.replace(b"POST /", b"POST\t/")], "400 close"),
    "garbage": Case([b"\x16\x03\x01 garbage"], "400 close"),
    "NUL": Case([b"\0"], "400 close"),
    "NUL behind good": Case([GOOD, b"\0"], "200 400 close"),
    "garbage behind good": Case([GOOD, GOOD, b"garbage\r\n\r\n"], "200 200 400 close"),
    "beginning": Case([GOOD, b"POST /decr"], "200 wait"),
    "only line break": Case([b"\r\n"], "wait"),
    "half a body": Case([GOOD, GOOD[:-5]], "200 wait"),
    "half a head": Case([GOOD, GOOD[:60]], "200 wait"),
    "HTTP/2": Case([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "400 close"),
}

_BATCHES = {
    "batch": Case([BATCH], "200 wait"),
    "batch of 64": Case([batch(64), batch(65), GOOD], "200 200 200 wait"),
    "batch of none": Case([batch(0), BATCH, GOOD], "400 200 200 wait"),
    "batch not JSON": Case([make(b"[", target="/decrypt/batch"), BATCH], "400 200 wait"),
    "batch of 1,001": Case([make({"requests": [{"token": ""}] * 1001}, target="/decrypt/batch"), GOOD], "400 200 wait"),
    "batch, one bad": Case([make({"requests": [{"token": ""}, {}]}, target="/decrypt/batch"), GOOD], "400 200 wait"),
    "batch among others": Case([GOOD, BATCH, GOOD, GOOD, BATCH], "200 200 200 200 200 wait"),
    "large batch": Case([LARGE_BATCH], "200 wait"),
    "large batch among others": Case([GOOD, LARGE_BATCH, GOOD, BATCH, GOOD], "200 200 200 200 200 wait"),
    "two large batches": Case([LARGE_BATCH, BATCH, LARGE_BATCH, GOOD], "200 200 200 200 wait"),
    "large batch, then half": Case([LARGE_BATCH, GOOD, GOOD[:-9]], "200 200 wait"),
    "large batch, then half a head": Case([LARGE_BATCH, GOOD[:50]], "200 wait"),
    "large batch, then odd": Case([LARGE_BATCH, GOOD, CHUNKED, LARGE_BATCH], "200 200 200 200 wait"),
    "large batch, then wrong": Case([LARGE_BATCH, GOOD, b"garbage"], "200 200 400 close"),
    "large batch, then close": Case([LARGE_BATCH, make(BODY, "Connection: close")], "200 200 close"),
    "batch that closes": Case([batch(150, "Connection: close"), GOOD], "200 close"),
    "batch chunked": Case([chunked(target="/decrypt/batch"), GOOD], "400 200 wait"),
    "batch too long": Case([make(b"", target="/decrypt/batch", length="Content-Length: 4194305")], "413 wait"),
}

CORPUS = {**_PLAIN, **_FRAMING, **_HEADS, **_LINES, **_BATCHES}

_SHOWN = f"Authorization: Bearer {BEARER}"
GUARDED_CORPUS = {
    "shown": Case([make(BODY, _SHOWN), make(BODY, _SHOWN)], "200 200 wait"),
    "shown in odd case": Case([make(BODY, f"AUTHORIZATION: bEARER   {BEARER}  "), GOOD], "200 401 wait"),
    "not shown": Case([GOOD, make(BODY, _SHOWN), GOOD], "401 200 401 wait"),
    "wrong": Case([make(BODY, _SHOWN + "x"), make(BODY, _SHOWN)], "401 200 wait"),
    "too short": Case([make(BODY, _SHOWN[:-1]), make(BODY, "Authorization: Bearer"), GOOD], "401 401 401 wait"),
    "other scheme": Case([make(BODY, f"Authorization: Basic {BEARER}"), make(BODY, _SHOWN)], "401 200 wait"),
    "in Latin-1": Case([make(BODY, _SHOWN.encode("latin-1")), make(BODY, _SHOWN)], "401 200 wait"),
    "behind an odd blank": Case([make(BODY, f"Authorization: Bearer \xa0{BEARER}".encode("latin-1"))], "401 wait"),
    "twice": Case([make(BODY, _SHOWN, _SHOWN)], "400 close"),
    "right, then wrong": Case([make(BODY, _SHOWN, "Authorization: Bearer x")], "400 close"),
    "wrong, then right": Case([GOOD, make(BODY, "Authorization: Bearer x", _SHOWN)], "401 400 close"),
    "refused before the body": Case([make(b"", length="Content-Length: 99")], "401 wait"),
    "refused before the length": Case([make(b"", length="Content-Length: 99999")], "401 wait"),
    "refused nowhere": Case([make(target="/nowhere"), make(method="GET")], "404 405 wait"),
    "batch": Case([batch(2), batch(150, _SHOWN), batch(2, _SHOWN), make(BODY, _SHOWN)], "401 200 200 200 wait"),
}
