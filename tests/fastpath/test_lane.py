"""The native lane: whenever it answers, the Python code gives the same bytes; and it answers what it should."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from random import Random
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, LaneCells
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.keystore.store import KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import BID_REQUESTS, DECRYPTIONS, SUCCESS_CELLS, BidRequestResult
from bidstream_svc.server.answers import verdict_body
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.fastpath.connection import FastPathConnection
from bidstream_svc.server.fastpath.heads import MAX_HEAD_BYTES, MAX_SHAPES, PlainHeads
from bidstream_svc.server.fastpath.lane import make_lane, teach
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.routes import ROUTES, labels_of
from tests.fastpath.corpus import CORPUS, GUARDED_CORPUS, STATE, make
from tests.fastpath.support import HOSTS, FakeTransport, FastPathSide, settle, split_answers
from tests.fastpath.test_any_requests import LINES

if IS_NATIVE:
    from bidstream_svc.core.kernel import Lane

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="there is no native kernel")

STATES = [OperatorState(seed=scope, scope=scope) for scope in IdentityScope]
TOKENS = [STATE.mint_token(version=version) for version in (2, 3, 4)]
SUCCESSES = SUCCESS_CELLS[STATE.scope]
BATCH_OF_GOOD = make({"requests": [{"token": token} for token in TOKENS]}, target="/decrypt/batch")


def successes_of_lane(side: FastPathSide, transport: FakeTransport, data: bytes) -> int:
    """Send a request; return how many verdicts the lane and the kernel gave, without Python."""
    before = side.metrics.row[SUCCESSES]
    with python_is_asked() as asked:
        transport.feed(data)
    return 0 if asked() else side.metrics.row[SUCCESSES] - before


@contextmanager
def python_is_asked() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Python has received a request or given a verdict."""
    receive = patch.object(FastPathConnection, "receive", autospec=True, side_effect=FastPathConnection.receive)
    verdict = patch("bidstream_svc.server.handlers.verdict_body", wraps=verdict_body)
    with receive as received, verdict as given_verdict:
        yield lambda: received.called or given_verdict.called


@pytest.mark.parametrize("token", TOKENS, ids=["v2", "v3", "v4"])
@pytest.mark.parametrize("lines", [[], ["traceparent: 00-{}", "Cookie: a={}"], ["User-Agent: a {}"]], ids=str)
async def test_every_good_token_behind_a_known_head_is_answered_and_counted(
    side: FastPathSide, token: str, lines: list[str]
) -> None:
    transport = side.connect()
    for number in range(4):
        domain = None if number == 0 else "x" * 7**number + ".com"
        request = make({"token": token, "domain": domain}, *(line.format("v" * number) for line in lines))
        # The first one is checked in Python.
        assert successes_of_lane(side, transport, request) == (number > 0)
    assert [b"SUCCESS" in answer.body for answer in split_answers(transport.sent)] == [True] * 4
    assert side.counted[0] == side.metrics.row[side.metrics.http_requests["/decrypt", 200]] == 4
    assert side.metrics.row[SUCCESSES] == 4


@pytest.fixture
async def side_of_both() -> AsyncIterator[FastPathSide]:
    """A fast path with the keys of both programmes."""
    side = FastPathSide(snapshots=[parse_key_response(orjson.dumps(bidstream_keys(state, {}))) for state in STATES])
    yield side
    side.close()


async def test_tokens_of_both_programmes_are_answered_and_counted_by_programme(side_of_both: FastPathSide) -> None:
    side, transport = side_of_both, side_of_both.connect()
    tokens = {state.scope: [state.mint_token(version) for version in (2, 3, 4)] for state in STATES}
    transport.feed(make({"token": "abcd"}))  # the lane learns the head
    for number, (scope, token) in enumerate([(each, token) for each in tokens for token in tokens[each]], 1):
        other = next(state.scope for state in STATES if state.scope is not scope)
        row = side.metrics.row
        before = row[SUCCESS_CELLS[scope]], row[SUCCESS_CELLS[other]]
        with python_is_asked() as asked:
            transport.feed(make({"token": token}))
        assert not asked()
        assert (row[SUCCESS_CELLS[scope]], row[SUCCESS_CELLS[other]]) == (before[0] + 1, before[1])
        assert row[side.metrics.http_requests["/decrypt", 200]] == number + 1
    assert [b"SUCCESS" in answer.body for answer in split_answers(transport.sent)] == [False] + [True] * 6


async def test_a_name_that_python_has_found_registered_is_noted_for_its_programme(side_of_both: FastPathSide) -> None:
    side, transport = side_of_both, side_of_both.connect()
    for state in STATES:
        site_id, name = next((site.site_id, site.domain_names[0]) for site in state.sites.values() if site.domain_names)
        token = state.mint_token(site_id=site_id, client_side=True)
        request = make({"token": token, "domain": f"news.{name}"})
        answered = []
        for _ in range(3):
            before = side.metrics.row[SUCCESS_CELLS[state.scope]]
            with python_is_asked() as asked:
                transport.feed(request)
            assert side.metrics.row[SUCCESS_CELLS[state.scope]] == before + 1
            answered.append(not asked())
        assert answered == [False, True, True]


async def test_what_is_not_a_success_is_decided_in_python(side: FastPathSide) -> None:
    transport = side.connect()
    bad: list[bytes | dict[str, object]] = [
        {"token": "abcd"},
        {"token": TOKENS[0][:-4]},
        {"token": 7},
        {"token": TOKENS[2], "more": 1},
        b"{",
        b"",
    ]
    requests = [make({"token": TOKENS[0]}), *(make(body) for body in bad), BATCH_OF_GOOD, BATCH_OF_GOOD]
    assert [successes_of_lane(side, transport, request) for request in requests] == [0] * len(requests)
    assert transport.statuses == [200, 200, 200, 400, 200, 400, 400, 200, 200]


async def test_a_failure_is_answered_and_counted_by_the_lane_with_the_verdict_of_python(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(make({"token": TOKENS[0]}))  # the lane learns the head
    for number, (token, domain, status) in enumerate(
        [("abcd", None, b"VERSION_NOT_SUPPORTED"), ("A===", "x.com", b"INVALID_PAYLOAD"), ("é" * 9, "é", b"INVALID")], 1
    ):
        body = orjson.dumps({"token": token, "domain": domain})
        receive = patch.object(FastPathConnection, "receive", autospec=True, side_effect=FastPathConnection.receive)
        with receive as received:
            transport.feed(make(body))
        assert not received.called
        assert status in split_answers(transport.sent)[-1].body
        assert side.counted[0] == side.metrics.row[side.metrics.http_requests["/decrypt", 200]] == 1 + number
        assert sum(side.metrics.row[cell] for cell in DECRYPTIONS.values()) == 1 + number


@pytest.mark.parametrize("target", ["/openrtb", "/openrtb/rewrite"])
async def test_a_bid_request_whose_tokens_are_good_is_answered_and_counted_by_the_lane(
    side: FastPathSide, target: str
) -> None:
    source = {IdentityScope.UID2: "uidapi.com", IdentityScope.EUID: "euid.eu"}[STATE.scope]
    uids = [{"id": TOKENS[0]}, {"id": TOKENS[1]}, {"id": TOKENS[0]}]
    requests = [
        make({"id": "a", "user": {"eids": [{"source": source, "uids": uids}]}}, target=target),
        make({"id": "b", "user": {}}, target=target),
    ]
    transport = side.connect()
    for request in requests:
        transport.feed(request)
    side.fast_path.forget_heads()
    transport.feed(requests[0])  # by Python, as the first one
    with python_is_asked() as asked:
        for request in requests:
            transport.feed(request)
    assert not asked()
    first, empty, again, of_lane, empty_of_lane = split_answers(transport.sent)
    assert (first, empty) == (again, empty_of_lane) == (of_lane, empty)
    assert (b"Bidstream-Statuses: SUCCESS,SUCCESS,SUCCESS\r\n" in transport.sent) == (target != "/openrtb")
    row = side.metrics.row
    assert [row[BID_REQUESTS[result]] for result in BidRequestResult] == [3, 0, 2, 0]
    assert row[SUCCESSES] == 3 * 2
    assert row[side.metrics.http_requests[target, 200]] == side.counted[0] == 5


async def test_a_bug_in_the_decryption_is_answered_with_500(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(make({"token": TOKENS[0]}))
    with patch("bidstream_svc.server.handlers.verdict_body", side_effect=ZeroDivisionError):
        transport.feed(make({"token": "abcd"}))
    transport.feed(make({"token": TOKENS[0]}))
    assert transport.statuses == [200, 500, 200]
    assert side.counted[0] == 3


async def test_without_keys_and_while_draining_python_answers(side: FastPathSide) -> None:
    transport, other = side.connect(), side.connect()
    good = make({"token": TOKENS[0]})
    keys, side.store.keys = side.store.keys, type(side.store.keys)()
    assert [successes_of_lane(side, transport, good) for _ in range(3)] == [0] * 3
    assert all(b"NOT_INITIALIZED" in answer.body for answer in split_answers(transport.sent))
    side.store.keys = keys
    assert successes_of_lane(side, transport, good) == 1
    side.drain()
    assert successes_of_lane(side, other, good) == 0
    assert other.is_closing()
    assert b"Connection: close\r\n" in other.sent


async def test_a_new_bearer_token_is_asked_for_at_once(tmp_path: Path) -> None:
    path = await _write(tmp_path / "bearer", "first")
    bearer = BearerToken(path)
    side = FastPathSide(bearer)
    transport = side.connect()
    good = make({"token": TOKENS[0]}, "Authorization: Bearer first")
    assert [successes_of_lane(side, transport, good) for _ in range(2)] == [0, 1]
    await _write(path, "second")
    assert bearer.reload()
    side.fast_path.forget_heads()
    assert successes_of_lane(side, transport, good) == 0
    await settle()
    assert transport.statuses == [200, 200, 401]
    side.close()


async def _write(path: Path, text: str) -> Path:
    await asyncio.to_thread(path.write_text, text)
    return path


# Heads: the lane recognises none that Python does not.


def without_keys(metrics: MetricCells) -> TokenDecryptor:
    return TokenDecryptor(KeyStores([KeyStore()]), metrics, on_unknown_key=lambda *_: None)


def answers(connection_side: FastPathSide, requests: list[bytes]) -> bytes:
    transport = connection_side.connect()
    for request in requests:
        transport.feed(request)
    transport.lose()
    return re.sub(rb"Date: [^\r]*", b"", transport.sent)


@pytest.fixture
async def sides() -> AsyncIterator[tuple[FastPathSide, FastPathSide]]:
    both = FastPathSide(), FastPathSide()
    both[1].fast_path.connect(HOSTS)
    both[1].fast_path._of_hosts = {HOSTS: (both[1].fast_path._of_hosts[HOSTS][0], None)}  # the lane is off
    yield both
    for each in both:
        each.close()


@pytest.mark.parametrize("name", [*CORPUS, *GUARDED_CORPUS])
def test_no_head_is_known_that_is_not_plain(name: str) -> None:
    metrics, heads = MetricCells(labels_of(ROUTES)), PlainHeads(ROUTES, None, HOSTS)
    lane = make_lane(without_keys(metrics), metrics)
    assert lane is not None
    for line in LINES:
        heads.find(make({"token": TOKENS[0]}, line).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        teach(lane, heads.shapes, metrics)
    for request in {**CORPUS, **GUARDED_CORPUS}[name].requests:
        taken = lane.take(request, None)
        if taken is not None:
            assert not isinstance(taken, bytes)  # it has no response head yet
            route, body = taken
            head, _, rest = request.partition(b"\r\n\r\n")
            assert body == rest
            found = PlainHeads(ROUTES, None, HOSTS).find(head + b"\r\n\r\n")
            assert found is not None
            assert (found[0].path, found[1]) == (route.path, len(body))


async def test_any_changed_byte_gives_the_same_answer(sides: tuple[FastPathSide, FastPathSide]) -> None:
    native, interpreted = sides
    request = make({"token": TOKENS[2]}, "traceparent: 00-0af7", "Accept: */*", "Content-Type: application/json")
    random = Random(1)  # noqa: S311 - to be repeatable
    for place in range(len(request)):
        byte = random.choice([b"\r", b"\n", b"\0", b"\t", b" ", b":", b"\x7f", b"\xe9", b"x", b"8", b""])
        changed = [request, request, request[:place] + byte + request[place + 1 :]]
        assert answers(native, changed) == answers(interpreted, changed), changed[2]
        await settle()
    assert native.counted[1:] == interpreted.counted[1:]


async def test_the_longest_head(sides: tuple[FastPathSide, FastPathSide]) -> None:
    native, interpreted = sides
    empty = make({"token": TOKENS[2]}, "X: ")
    room = MAX_HEAD_BYTES - empty.index(b"\r\n\r\n") - 4
    requests = [make({"token": TOKENS[2]}, "X: " + "x" * size) for size in (0, 1, room - 1, room, room + 1)]
    for request in requests:
        assert answers(native, [requests[0], request]) == answers(interpreted, [requests[0], request])
        await settle()


@given(data=st.data())
def test_a_lane_never_raises_and_forgets_the_oldest(data: st.DataObject) -> None:
    metrics = MetricCells(labels_of(ROUTES))
    lane, heads = make_lane(without_keys(metrics), metrics), PlainHeads(ROUTES, None, HOSTS)
    assert lane is not None
    requests = [make({"token": TOKENS[0]}, f"X-{number}: x") for number in range(MAX_SHAPES + 1)]
    for request in requests:
        heads.find(request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        teach(lane, heads.shapes, metrics)
        teach(lane, heads.shapes, metrics)  # makes no difference
    assert [lane.take(request, None) is not None for request in requests] == [False] + [True] * MAX_SHAPES
    lane.take(data.draw(st.binary(max_size=300)), None)
    cut = data.draw(st.integers(0, len(requests[1])))
    lane.take(requests[1][:cut] + data.draw(st.binary(max_size=20)), None)


def test_a_row_that_cannot_be_written_to_is_refused() -> None:
    cells = LaneCells(0, 1, 2, 3, 4, 5, 6)
    for row in (memoryview(bytes(80)).cast("q"), memoryview(mmap(-1, 160)).cast("q")[::2]):
        with pytest.raises(ValueError, match="shared memory"):
            Lane(row, cells, list)
    lane: Lane[str] = Lane(MetricCells(labels_of(ROUTES)).row, cells, list)
    with pytest.raises(ValueError, match="value"):
        lane.learn("route", [(b"x", 3)], b"", 0, 0, 0)
    with pytest.raises(ValueError, match="content"):
        lane.learn("route", [(b"x", 0)], b"", 0, 4, 0)


async def test_a_duration_is_in_the_histogram(side: FastPathSide) -> None:
    transport = side.connect()
    assert isinstance(transport.get_protocol(), FastPathConnection)
    good = make({"token": TOKENS[0]})
    assert [successes_of_lane(side, transport, good) for _ in range(3)] == [0, 1, 1]
    assert side.counted[0] == 3
