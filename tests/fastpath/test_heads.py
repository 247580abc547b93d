"""Which heads are plain; the memo does not change the result."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.addresses import TcpAddress, UnixAddress
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.fastpath import heads
from bidstream_svc.server.fastpath.heads import PlainHeads
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.routes import ROUTES
from tests.fastpath.corpus import BODY, CORPUS, GOOD, TYPED, make
from tests.fastpath.test_any_requests import LINES, odd_heads

LOOPBACK = HostCheck(TcpAddress("127.0.0.1", 80), frozenset())


def head_of(request: bytes) -> bytes:
    return request[: request.index(b"\r\n\r\n") + 4]


@pytest.fixture
def memo() -> PlainHeads:
    return PlainHeads(ROUTES, None, LOOPBACK)


@pytest.mark.parametrize("request_bytes", [GOOD, TYPED], ids=["good", "typed"])
def test_a_plain_head_is_measured_and_its_shape_is_remembered(memo: PlainHeads, request_bytes: bytes) -> None:
    raw = head_of(request_bytes)
    assert memo.find(raw) == (ROUTES[0], len(BODY))
    (shape,) = memo.shapes
    assert memo.find(bytes(bytearray(raw))) == (ROUTES[0], len(BODY))
    assert memo.shapes == [shape]


def test_routes_and_their_limits(memo: PlainHeads) -> None:
    for target, route, limit in [("/decrypt", ROUTES[0], 16 * 1024), ("/decrypt/batch", ROUTES[1], 4 * 1024**2)]:
        for length in (0, 1, limit):
            assert memo.find(head_of(make(b"", target=target, length=f"Content-Length: {length}"))) == (route, length)
        assert memo.find(head_of(make(b"", target=target, length=f"Content-Length: {limit + 1}"))) is None
    assert len(memo.shapes) == 2


PLAIN = [
    *("good", "ten", "empty body", "length with zeros", "keep-alive", "charset", "two accepts", "header not ASCII"),
    *("Keep-Alive", "connection options", "TE of several", "max forwards", "proxies and traces", "settings only"),
    *("upgrade", "upgrade with settings", "upgrade with an empty body", "upgrade in capitals"),
    "connection upgrade only",
]
ODD = [
    *("chunked", "expect", "close", "1.0", "query", "33 headers", "no host", "text", "folded", "GET", "content coding"),
    *("upgrade to websocket", "upgrade to several", "upgrade to something", "upgrade without connection"),
    *("upgrade, chunked", "upgrade and close", "close in a list", "close behind keep-alive", "proxy close"),
    *("connection empty", "connection names a header", "connection names the length", "connection names the host"),
    *("connection names authorization", "length and chunked", "coding identity", "other coding", "expect something"),
    *("two content ranges", "two user agents"),
]


@pytest.mark.parametrize("name", PLAIN)
def test_the_fast_path_takes_what_is_plain(memo: PlainHeads, name: str) -> None:
    assert memo.find(head_of(CORPUS[name].requests[0])) is not None


@pytest.mark.parametrize("name", ODD)
def test_the_fast_path_takes_nothing_odd(memo: PlainHeads, name: str) -> None:
    assert memo.find(head_of(CORPUS[name].requests[0])) is None


@given(st.lists(odd_heads, max_size=4), odd_heads)
@settings(max_examples=100)
def test_what_was_seen_before_makes_no_difference(before: list[bytes], raw: bytes) -> None:
    warm = PlainHeads(ROUTES, None, LOOPBACK)
    for other in before:
        warm.find(other)
    expected = PlainHeads(ROUTES, None, LOOPBACK).find(raw)
    assert warm.find(raw) == expected
    assert warm.find(raw) == expected


@given(st.lists(st.sampled_from([line for line in LINES if len(line) < 100]), max_size=4))
@settings(max_examples=100)
def test_lines_that_are_known_make_no_plain_head_out_of_an_odd_one(lines: list[bytes]) -> None:
    warm = PlainHeads(ROUTES, None, LOOPBACK)
    for line in LINES:
        warm.find(head_of(make(BODY, line)))
    raw = head_of(make(BODY, *lines))
    assert warm.find(raw) == PlainHeads(ROUTES, None, LOOPBACK).find(raw)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_asked_about(noise: bytes) -> None:
    memo = PlainHeads(ROUTES, None, LOOPBACK)
    assert memo.find(noise + b"\r\n\r\n") is None
    memo.find(b"POST /decrypt" + noise + b"\r\n\r\n")
    assert PlainHeads(ROUTES, None, LOOPBACK).may_begin(noise) is b"POST /decrypt".startswith(noise)
    PlainHeads(ROUTES, None, LOOPBACK).may_begin(b"POST /decrypt" + noise)


CHANGING = ("traceparent", "X-Request-Id")


def changing_head(traceparent: object, request_id: object, *lines: str | bytes) -> bytes:
    return head_of(make(BODY, f"{CHANGING[0]}: {traceparent}", *lines, f"{CHANGING[1]}: {request_id}"))


def test_values_of_ignored_headers_make_no_new_shape(memo: PlainHeads) -> None:
    for number, value in enumerate(["a", "b", "a longer value", "~", " "]):
        assert memo.find(changing_head(number, value)) == (ROUTES[0], len(BODY))
    assert len(memo.shapes) == 1
    assert memo.find(changing_head(6, 6, "Accept: text/plain")) is not None
    assert memo.find(changing_head(7, 7, "Accept: text/html")) is not None
    assert len(memo.shapes) == 2


def test_the_shape_that_was_used_last_comes_first(memo: PlainHeads) -> None:
    other = changing_head(1, 1)
    memo.find(head_of(GOOD))
    memo.find(other)
    first, second = memo.shapes
    memo.find(head_of(GOOD))
    assert memo.shapes == [second, first]


def test_no_header_too_many_is_looked_past(memo: PlainHeads) -> None:
    for number in range(3):
        memo.find(changing_head(number, number))
    fits = [f"X-{number}: x" for number in range(heads._MAX_HEADERS - 4)]
    assert memo.find(changing_head(5, 5, *fits)) is not None
    assert memo.find(changing_head(6, 6, *fits, "X: x")) is None


odd_values = st.one_of(st.text(st.characters(max_codepoint=255), max_size=5), st.sampled_from(["", " ", "a b", "\t"]))
changing_lines = st.builds("{}{}{}".format, st.sampled_from(CHANGING), st.sampled_from([": ", ":", ":  "]), odd_values)


@given(st.lists(st.one_of(changing_lines, st.sampled_from([line for line in LINES if len(line) < 100])), max_size=4))
@settings(max_examples=200)
def test_a_header_that_changed_before_makes_no_plain_head_out_of_an_odd_one(lines: list[str | bytes]) -> None:
    warm = PlainHeads(ROUTES, None, LOOPBACK)
    for number in range(3):
        warm.find(changing_head(number, number))
    raw = head_of(make(BODY, *(line.encode("latin-1") if isinstance(line, str) else line for line in lines)))
    assert warm.find(raw) == PlainHeads(ROUTES, None, LOOPBACK).find(raw)


def test_the_memory_is_bounded(memo: PlainHeads) -> None:
    for number in range(3 * heads.MAX_SHAPES):
        assert memo.find(head_of(make(BODY, f"User-Agent: {number}", f"X-{number}: 1"))) is not None
        assert memo.find(head_of(make(BODY, f"X:{number}"))) is not None
    assert len(memo.shapes) == heads.MAX_SHAPES


def test_heads_that_differ_behind_many_values_are_compared_with_few(memo: PlainHeads) -> None:
    for number in range(3 * heads.MAX_SHAPES):
        raw = head_of(make(BODY, *["X: x"] * 28, f"X-{number}: x"))
        assert memo.find(raw) == memo.find(raw) == (ROUTES[0], len(BODY))
        assert sum(len(shape.parts) for shape in memo.shapes) <= heads.MAX_PARTS


def test_lengths_that_no_shape_has_add_none(memo: PlainHeads) -> None:
    for _ in range(3):
        for length in ("Content-Length:2", "Content-Length:  2", "Content-Length: " + "0" * 20 + "2"):
            assert memo.find(head_of(make(b"{}", length=length))) == (ROUTES[0], 2)
    assert memo.find(head_of(make(length="Content-Length: " + "1" * 30))) is None
    assert memo.shapes == []


def test_what_is_longer_than_a_head_may_be_is_not_plain(memo: PlainHeads) -> None:
    room = heads.MAX_HEAD_BYTES - len(head_of(make(BODY, "X: ")))
    for extra, is_plain in ((0, True), (1, False)):
        request = make(BODY, "X: " + "x" * (room + extra))
        for asked in (memo, PlainHeads(ROUTES, None, LOOPBACK)):
            assert (asked.find(head_of(request)) is not None) is is_plain
        beginning = b"POST /decrypt HTTP/1.1" + b"\r\nX: "
        beginning += b"x" * (heads.MAX_HEAD_BYTES + extra - len(beginning))
        assert PlainHeads(ROUTES, None, LOOPBACK).may_begin(beginning) is is_plain


def test_the_host_is_judged_by_the_listener(memo: PlainHeads) -> None:
    foreign = head_of(make(host="Host: example.com"))
    assert memo.find(foreign) is None
    assert PlainHeads(ROUTES, None, HostCheck(UnixAddress(Path("/x")), frozenset())).find(foreign) is not None
    assert (
        PlainHeads(ROUTES, None, HostCheck(TcpAddress("127.0.0.1", 80), frozenset({"example.com"}))).find(foreign)
        is not None
    )


def test_a_bearer_token_is_asked_for_and_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    bearer = BearerToken(path)
    memo = PlainHeads(ROUTES, bearer, LOOPBACK)
    first, second = (head_of(make(BODY, f"Authorization: Bearer {name}")) for name in ("first", "second"))
    assert [memo.find(raw) is not None for raw in (first, second, head_of(GOOD))] == [True, False, False]
    path.write_text("second")
    assert bearer.reload()
    memo.forget()
    assert [memo.find(raw) is not None for raw in (first, second, head_of(GOOD))] == [False, True, False]


def test_sampled_requests_are_left_to_aiohttp_where_there_is_a_tracer(memo: PlainHeads) -> None:
    traced = PlainHeads(ROUTES, None, LOOPBACK, is_traced=True)
    assert traced.find(head_of(GOOD)) is not None  # from here on, all but the new line is known
    for number in range(3):
        for flags, is_plain in (("00", True), ("01", False), ("03", False), ("02", True)):
            for spelling in ("traceparent: ", "Traceparent:  "):
                raw = head_of(make(BODY, f"{spelling}00-{number + 1:032x}-{number + 1:016x}-{flags}"))
                assert (traced.find(raw) is not None) is is_plain
                assert memo.find(raw) is not None
