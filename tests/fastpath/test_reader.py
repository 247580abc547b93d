"""The reader alone: bytes in, requests out, and its states."""

import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.fastpath.heads import MAX_HEAD_BYTES, PlainHeads
from bidstream_svc.server.fastpath.reader import BODY, FOREIGN, HEAD, IDLE, MORE, Request, RequestReader, State
from bidstream_svc.server.routes import ROUTES
from tests.fastpath.corpus import BATCH, CHUNKED, CORPUS, GOOD, TYPED, make
from tests.fastpath.support import HOSTS, cut

DECRYPT, DECRYPT_BATCH = ROUTES[:2]
BODY_START = GOOD.index(b"\r\n\r\n") + 4
GOOD_BODY = GOOD[BODY_START:]
LONG_LINE = b"x: " + b"x" * MAX_HEAD_BYTES

LIMIT = 2  # of the requests that are returned at once

# What has come before, what comes, how many requests that completes, the state, and how much is kept.
TRANSITIONS = {
    "IDLE, nothing": (b"", b"", 0, IDLE, 0),
    "IDLE to IDLE": (b"", GOOD, 1, IDLE, 0),
    "IDLE to IDLE, two": (b"", GOOD + TYPED, 2, IDLE, 0),
    "IDLE to IDLE, no body": (b"", make(b""), 1, IDLE, 0),
    "IDLE to HEAD": (b"", GOOD[:9], 0, HEAD, 9),
    "IDLE to HEAD, without the last byte": (b"", GOOD[: BODY_START - 1], 0, HEAD, BODY_START - 1),
    "IDLE to HEAD behind a request": (b"", GOOD + GOOD[:9], 1, HEAD, 9),
    "IDLE to BODY, nothing of it": (b"", GOOD[:BODY_START], 0, BODY, 0),
    "IDLE to BODY": (b"", GOOD[:-3], 0, BODY, len(GOOD_BODY) - 3),
    "IDLE to BODY behind a request": (b"", GOOD + GOOD[:-3], 1, BODY, len(GOOD_BODY) - 3),
    "IDLE to FOREIGN": (b"", CHUNKED, 0, FOREIGN, len(CHUNKED)),
    "IDLE to FOREIGN before a whole head": (b"", b"GET", 0, FOREIGN, 3),
    "IDLE to FOREIGN behind a request": (b"", GOOD + CHUNKED + GOOD, 1, FOREIGN, len(CHUNKED + GOOD)),
    "HEAD, nothing": (GOOD[:9], b"", 0, HEAD, 9),
    "HEAD to HEAD": (GOOD[:9], GOOD[9:30], 0, HEAD, 30),
    "HEAD to IDLE": (GOOD[:9], GOOD[9:], 1, IDLE, 0),
    "HEAD to BODY": (GOOD[:9], GOOD[9:-3], 0, BODY, len(GOOD_BODY) - 3),
    "HEAD to FOREIGN": (CHUNKED[:9], CHUNKED[9:], 0, FOREIGN, len(CHUNKED)),
    "HEAD to FOREIGN before a whole head": (GOOD[:9], b"\0", 0, FOREIGN, 10),
    "HEAD to FOREIGN by its length": (GOOD[:45], LONG_LINE, 0, FOREIGN, 45 + len(LONG_LINE)),
    "HEAD to HEAD of the next": (GOOD[:9], GOOD[9:] + GOOD[:9], 1, HEAD, 9),
    "BODY, nothing": (GOOD[:-3], b"", 0, BODY, len(GOOD_BODY) - 3),
    "BODY to BODY": (GOOD[:-3], GOOD[-3:-1], 0, BODY, len(GOOD_BODY) - 1),
    "BODY to IDLE": (GOOD[:-3], GOOD[-3:], 1, IDLE, 0),
    "BODY to IDLE behind the next": (GOOD[:-3], GOOD[-3:] + GOOD, 2, IDLE, 0),
    "BODY to HEAD": (GOOD[:-3], GOOD[-3:] + GOOD[:9], 1, HEAD, 9),
    "BODY to BODY of the next": (GOOD[:-3], GOOD[-3:] + GOOD[:-2], 1, BODY, len(GOOD_BODY) - 2),
    "BODY to FOREIGN": (GOOD[:-3], GOOD[-3:] + CHUNKED, 1, FOREIGN, len(CHUNKED)),
    "FOREIGN, nothing": (CHUNKED, b"", 0, FOREIGN, len(CHUNKED)),
    "FOREIGN to FOREIGN": (CHUNKED, GOOD, 0, FOREIGN, len(CHUNKED + GOOD)),
    "IDLE to MORE": (b"", GOOD * 3, 2, MORE, len(GOOD * 3)),
    "IDLE to MORE, part of a request": (b"", GOOD * 2 + b"P", 2, MORE, len(GOOD * 2 + b"P")),
    "HEAD to MORE": (GOOD[:9], GOOD[9:] + GOOD * 2, 2, MORE, len(GOOD * 3)),
    "BODY to MORE": (GOOD[:-3], GOOD[-3:] + GOOD * 2, 2, MORE, 3 + len(GOOD * 2)),
    "MORE, nothing": (GOOD * 3, b"", 0, MORE, len(GOOD)),
    "MORE to MORE": (GOOD * 3, CHUNKED, 0, MORE, len(GOOD + CHUNKED)),
}


def make_reader(heads: PlainHeads | None = None) -> RequestReader:
    return RequestReader(heads or PlainHeads(ROUTES, None, HOSTS))


@pytest.mark.parametrize("name", TRANSITIONS)
def test_each_transition(name: str) -> None:
    before, data, completed, state, unfinished_bytes = TRANSITIONS[name]
    reader = make_reader()
    reader.feed(before, LIMIT)
    assert reader.state is State[name.partition(" ")[0].rstrip(",")]
    assert len(reader.feed(data, LIMIT)) == completed
    assert (reader.state, reader.unfinished_bytes) == (state, unfinished_bytes)
    assert reader.route is (DECRYPT if state is BODY else None)


def test_every_transition_of_the_table_is_tried() -> None:
    tried = {(State[name.partition(" ")[0].rstrip(",")], row[3]) for name, row in TRANSITIONS.items()}
    assert tried == {(before, after) for before in (IDLE, HEAD, BODY) for after in State} | {
        (FOREIGN, FOREIGN),
        (MORE, MORE),
    }


def test_a_request_is_its_route_and_its_body() -> None:
    reader = make_reader()
    assert reader.feed(GOOD + BATCH + make(b"")) == [
        (DECRYPT, GOOD_BODY),
        (DECRYPT_BATCH, BATCH.partition(b"\r\n\r\n")[2]),
        (DECRYPT, b""),
    ]


def test_route_and_body_are_those_of_the_request_when_the_body_comes_in_pieces() -> None:
    reader = make_reader()
    assert reader.feed(BATCH[:-9]) == []
    assert reader.route is DECRYPT_BATCH
    assert reader.feed(BATCH[-9:-5]) == []
    assert reader.feed(BATCH[-5:] + GOOD) == [(DECRYPT_BATCH, BATCH.partition(b"\r\n\r\n")[2]), (DECRYPT, GOOD_BODY)]


# The short cut for whole requests.


def test_a_whole_request_matches_whether_its_head_is_known_or_not() -> None:
    reader = make_reader()
    for request in (GOOD, GOOD, TYPED, GOOD, make(b"{}"), make(b""), make(b"")):
        assert reader.match(request) == (DECRYPT, request.partition(b"\r\n\r\n")[2])
    assert reader.match(BATCH) == (DECRYPT_BATCH, BATCH.partition(b"\r\n\r\n")[2])
    assert (reader.state, reader.unfinished_bytes) == (IDLE, 0)


@pytest.mark.parametrize(
    "data",
    [b"", GOOD[:9], GOOD[:-1], GOOD[:BODY_START], GOOD + b"\n", GOOD * 2, CHUNKED, b"GET", b"\r\n\r\n"],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_anything_but_a_whole_request_does_not_match_and_changes_nothing(data: bytes, *, is_known: bool) -> None:
    reader = make_reader()
    if is_known:
        reader.feed(GOOD)
    assert reader.match(data) is None
    assert (reader.state, reader.unfinished_bytes) == (IDLE, 0)
    assert reader.match(GOOD) == (DECRYPT, GOOD_BODY)


@pytest.mark.parametrize("beginning", [GOOD[:9], GOOD[:-3], CHUNKED])
def test_nothing_matches_behind_a_beginning(beginning: bytes) -> None:
    reader = make_reader()
    reader.feed(GOOD + beginning)
    assert reader.match(GOOD) is None


def test_a_head_of_the_same_length_is_another_head() -> None:
    reader = make_reader()
    reader.feed(GOOD)
    elsewhere = GOOD.replace(b"/decrypt", b"/Decrypt")
    assert reader.match(elsewhere) is None
    assert reader.feed(elsewhere) == []
    assert reader.state is FOREIGN


def test_a_known_head_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "bearer"
    path.write_text("first")
    bearer = BearerToken(path)
    heads = PlainHeads(ROUTES, bearer, HOSTS)
    reader, other = make_reader(heads), make_reader(heads)

    def requests(token: str) -> list[bytes]:
        return [make(b"x" * length, f"Authorization: Bearer {token}", f"X: {length}") for length in range(120)]

    assert reader.match(requests("first")[5])
    path.write_text("second")
    assert bearer.reload()  # from here on, no head is plain but those whose shape is known
    for each in (reader, other):
        assert [each.match(request) for request in requests("first")] == [(DECRYPT, b"x" * n) for n in range(120)]
    heads.forget()
    for each in (reader, other):
        assert [each.match(request) for request in requests("first")] == [None] * 120
        assert [each.match(request) for request in requests("second")] == [(DECRYPT, b"x" * n) for n in range(120)]
    assert reader.feed(requests("first")[0]) == []
    assert reader.state is FOREIGN


def test_the_place_of_content_length_matters() -> None:
    reader = make_reader()
    before, after = make(b"{}", "Accept: */*"), make(b"{}", "Accept: */*").replace(b"Accept: */*\r\n", b"")
    after = after.replace(b"\r\n\r\n", b"\r\nAccept: */*\r\n\r\n")
    assert (len(before), before != after) == (len(after), True)
    for request in (before, after, after, before):
        assert reader.match(request) == (DECRYPT, b"{}")
    assert reader.match(before.replace(b": 2", b": 3")) is None


TRACED = make(GOOD_BODY, "traceparent: 00-0af7", "Accept: */*", "X-Request-Id: 7d01-b")


def test_any_changed_byte_of_a_known_head_with_values_that_change() -> None:
    warm = make_reader()
    assert warm.match(TRACED)
    for place in range(len(TRACED) - len(GOOD_BODY)):
        for byte in (b"\r", b"\n", b"\0", b"\t", b" ", b":", b"\x7f", b"\xe9", b"x", b"8"):
            changed = TRACED[:place] + byte + TRACED[place + 1 :]
            assert warm.match(changed) == make_reader().match(changed), changed
            assert warm.match(TRACED) == (DECRYPT, GOOD_BODY)


def test_forgetting_a_head_does_not_harm_the_body_that_is_under_way() -> None:
    heads = PlainHeads(ROUTES, None, HOSTS)
    reader = make_reader(heads)
    reader.feed(GOOD[:-3])
    heads.forget()
    assert reader.feed(GOOD[-3:]) == [(DECRYPT, GOOD_BODY)]


def test_foreign_bytes_are_given_once() -> None:
    reader = make_reader()
    reader.feed(GOOD + CHUNKED[:20])
    reader.feed(CHUNKED[20:] + GOOD)
    assert reader.take_foreign() == CHUNKED + GOOD
    assert (reader.state, reader.unfinished_bytes, reader.take_foreign()) == (FOREIGN, 0, b"")
    reader.feed(GOOD)
    assert reader.take_foreign() == GOOD


def test_a_body_in_tiny_pieces_takes_no_more_memory_than_is_counted() -> None:
    reader = make_reader()
    body = b"x" * 50_000
    tracemalloc.start()
    try:
        reader.feed(make(body, target="/decrypt/batch")[: -len(body)])
        for start in range(0, len(body) - 2, 2):
            reader.feed(body[start : start + 2])
        assert reader.unfinished_bytes == len(body) - 2
        assert tracemalloc.get_traced_memory()[0] < 2 * reader.unfinished_bytes
    finally:
        tracemalloc.stop()
    assert reader.feed(body[-2:]) == [(DECRYPT_BATCH, body)]


# More requests than are returned at once.


def test_reading_on_returns_the_requests_in_order_and_then_what_is_incomplete_or_foreign() -> None:
    bodies = [b"%d" % number for number in range(7)]
    for rest, state in ((b"", IDLE), (GOOD[:9], HEAD), (GOOD[:-3], BODY), (CHUNKED, FOREIGN)):
        reader = make_reader()
        found = [reader.feed(b"".join(map(make, bodies)) + rest, LIMIT)]
        while reader.state is MORE:
            assert reader.match(GOOD) is None
            found.append(reader.read_on(LIMIT))
        assert [len(each) for each in found] == [2, 2, 2, 1]
        assert [body for each in found for _, body in each] == bodies
        assert reader.state is state


# Any split.

_SHORT = [request for case in CORPUS.values() for request in case.requests if len(request) < 2_000]
_shared_heads = PlainHeads(ROUTES, None, HOSTS)


def feed_only(reader: RequestReader, piece: bytes) -> list[Request]:
    return reader.feed(piece)


def match_then_feed(reader: RequestReader, piece: bytes) -> list[Request]:
    """As a connection does."""
    request = reader.match(piece)
    return reader.feed(piece) if request is None else [request]


def one_at_a_time(reader: RequestReader, piece: bytes) -> list[Request]:
    requests = reader.feed(piece, 1)
    while reader.state is MORE:
        requests += reader.read_on(1)
    return requests


@given(
    requests=st.lists(st.one_of(st.sampled_from(_SHORT), st.sampled_from([GOOD, TYPED, BATCH])), max_size=6),
    offsets=st.one_of(st.sets(st.integers(1, 1_500), max_size=8), st.just(set(range(1, 4_000)))),
    read=st.sampled_from([feed_only, match_then_feed, one_at_a_time]),
)
def test_any_split_gives_the_same_requests_and_the_same_rest(
    requests: list[bytes], offsets: set[int], read: Callable[[RequestReader, bytes], list[Request]]
) -> None:
    stream = b"".join(requests)
    whole, split = make_reader(), make_reader(_shared_heads)  # what is remembered must not matter, either
    expected = whole.feed(stream)
    assert [request for piece in cut(stream, offsets) for request in read(split, piece)] == expected
    assert (split.state, split.unfinished_bytes, split.route) == (whole.state, whole.unfinished_bytes, whole.route)
    read_bytes = len(stream) - whole.unfinished_bytes
    if whole.state is FOREIGN:
        assert whole.take_foreign() == split.take_foreign() == stream[read_bytes:]


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=8),
    foreign=st.sampled_from([CHUNKED, make(target="/x"), b"GET / HTTP/1.1\r\n", b"\0", b"\r\n"]),
)
def test_all_bytes_behind_what_is_foreign_are_kept(pieces: list[bytes], foreign: bytes) -> None:
    reader = make_reader()
    for piece in (GOOD + foreign, *pieces):
        reader.feed(piece)
    assert reader.take_foreign() == foreign + b"".join(pieces)


@pytest.mark.parametrize("first", [GOOD, TYPED, BATCH, make(b"")])
def test_behind_a_body_in_two_pieces_the_reader_is_idle_wherever_it_was_cut(first: bytes) -> None:
    for start, end in pairwise(range(len(first) + 1)):
        reader = make_reader()
        requests = [reader.feed(first[:start]), reader.feed(first[start:end]), reader.feed(first[end:])]
        assert sum(map(len, requests)) == 1
        assert (reader.state, reader.unfinished_bytes, reader.route) == (IDLE, 0, None)
        assert reader.match(GOOD) == (DECRYPT, GOOD_BODY)
