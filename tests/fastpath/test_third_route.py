"""A third row in the route table, as a new route would be one: by both ways, with every consumer of the table.

It gets the whole corpus instead of `/decrypt`, and is as long, so that a request of the one differs from a request of
the other in nothing but the path.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from itertools import product
from random import Random

import pytest

from bidstream_svc.addresses import TcpAddress
from bidstream_svc.config import load_settings
from bidstream_svc.keystore.store import KeyStores
from bidstream_svc.metrics import MetricCells, build_registry
from bidstream_svc.server.answers import Answer, statuses_in_answer
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.connections import ConnectionLimits
from bidstream_svc.server.data_server import DataServer
from bidstream_svc.server.handlers import BoundKeys, Handler, LongAnswer, TokenDecryptor, answer_decrypt
from bidstream_svc.server.routes import ROUTES, Route, labels_of
from bidstream_svc.server.sockets import open_listeners
from bidstream_svc.tracing import Tracer
from tests.fastpath.corpus import BODY, CORPUS, GUARDED_CORPUS, STATE, Case, batch, chunked, make
from tests.fastpath.support import FastPathSide, Side, cut, settle, split_answers, talk
from tests.support.collector import attributes, running_collector

PATH = "/another"
MARK = b'{"another":true,'


def answer_another(keys: BoundKeys, body: bytes, now_ms: int) -> Answer:
    """The answer of /decrypt, marked."""
    code, content = answer_decrypt(keys, body, now_ms)[:2]
    return code, MARK + content[1:]


def answer_over_iterations(keys: BoundKeys, body: bytes, now_ms: int) -> LongAnswer:
    yield
    yield
    answer = answer_another(keys, body, now_ms)
    yield
    return answer


def answer_in_one_step(keys: BoundKeys, body: bytes, now_ms: int) -> LongAnswer:
    """A generator that does not yield."""
    yield from ()
    return answer_another(keys, body, now_ms)


HANDLERS: dict[str, Handler] = {
    "direct": answer_another,
    "iterations": answer_over_iterations,
    "one step": answer_in_one_step,
}
MAX_STREAM_CUT_EVERYWHERE = 1_000
_GUARDED = "guarded, "
_CASES = {**CORPUS, **{_GUARDED + name: case for name, case in GUARDED_CORPUS.items()}}
# Not the path in "/decrypt/batch", however it is written.
_TARGETS = {
    re.compile(rb"/decrypt(?!/batch|%2Fbatch)"): b"/another",
    re.compile(rb"/%64ecrypt"): b"/%61nother",
    re.compile(rb"/decr$"): b"/anot",
}


def routes_with(handle: Handler, *, max_body_bytes: int = ROUTES[0].max_body_bytes) -> tuple[Route, ...]:
    return *ROUTES, Route(PATH, max_body_bytes, handle, statuses_in_answer)


def redirected(request: bytes) -> bytes:
    """The request, sent to the third route instead of the first."""
    for target, replacement in _TARGETS.items():
        request = target.sub(replacement, request)
    return request


class Sides:
    """Both ways to the same routes."""

    def __init__(self, routes: tuple[Route, ...], bearer: BearerToken | None = None) -> None:
        self.aiohttp, self.fast_path = Side(bearer, routes=routes), FastPathSide(bearer, routes=routes)

    def __iter__(self) -> Iterator[Side]:
        return iter((self.aiohttp, self.fast_path))

    def close(self) -> None:
        for side in self:
            side.close()


def cuts_of(name: str, length: int, *, is_thorough: bool) -> list[set[int]]:
    """Nowhere; then at every single offset of a short stream and at all of them, or at random."""
    random = Random(name)  # noqa: S311 - to be repeatable
    everywhere = range(1, length)
    if is_thorough and length <= MAX_STREAM_CUT_EVERYWHERE:
        return [set(), *({offset} for offset in everywhere), set(everywhere)]
    return [set(), *(set(random.choices(everywhere, k=random.randint(1, 4))) for _ in range(5) if everywhere)]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("name", _CASES)
async def test_corpus(name: str, handler: str, bearer: BearerToken) -> None:
    case = Case([redirected(request) for request in _CASES[name].requests], _CASES[name].outcome)
    sides = Sides(routes_with(HANDLERS[handler]), bearer if name.startswith(_GUARDED) else None)
    expected = await talk(sides.aiohttp, case.requests)
    assert str(expected) == case.outcome
    assert await talk(sides.fast_path, case.requests) == expected

    stream = b"".join(case.requests)
    # test_differential cuts the corpus everywhere for a handler that answers directly.
    for offsets in cuts_of(name, len(stream), is_thorough=handler == "iterations"):
        assert await talk(sides.fast_path, cut(stream, offsets)) == expected, sorted(offsets)
    for side in sides:
        labels = {label for (label, _), cell in side.metrics.http_requests.items() if side.metrics.row[cell]}
        assert "/decrypt" not in labels
    sides.close()


@pytest.fixture(params=HANDLERS)
def handle(request: pytest.FixtureRequest) -> Handler:
    return HANDLERS[request.param]


@pytest.fixture
async def sides(handle: Handler) -> AsyncIterator[Sides]:
    sides = Sides(routes_with(handle))
    yield sides
    sides.close()


ODD = {
    "chunked": chunked(target=PATH),
    "GET": make(b"", target=PATH, method="GET", length=None),
    "half": make(target=PATH)[:-3],
    "nothing": b"",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("before", range(5))
async def test_answers_come_in_order_whatever_stands_behind_them(sides: Sides, before: int, odd: str) -> None:
    """The status of each request tells which it is."""
    targets = [PATH, "/decrypt", PATH, PATH, "/decrypt/batch"]
    bodies = [BODY, b"{", b"[", b"{}", BODY]
    requests = [make(body, target=target) for target, body in zip(targets, bodies, strict=True)][:before]
    last = [ODD[odd], *([] if odd in {"half", "nothing"} else [make(target=PATH)])]
    expected = await talk(sides.aiohttp, [*requests, *last])
    for pieces in ([b"".join([*requests, *last])], [*requests, *last], [b"".join(requests), *last]):
        for at_once in (False, True):
            assert await talk(sides.fast_path, pieces, at_once=at_once) == expected
            assert await talk(sides.aiohttp, pieces, at_once=at_once) == expected


async def test_no_route_is_answered_as_another(sides: Sides) -> None:
    """Whatever was asked before on the connection: only the path differs."""
    paths = ["/decrypt", PATH, "/decrypt/batch"]
    bodies = {BODY: [200, 200, 400], batch(2).partition(b"\r\n\r\n")[2]: [400, 400, 200]}
    order = [paths.index(path) for pair in product(paths, repeat=2) for path in pair]
    for side, (body, codes) in product(sides, bodies.items()):
        outcome = await talk(side, [make(body, target=paths[number]) for number in order])
        assert [answer.status for answer in outcome.answers] == [codes[number] for number in order]
        for number, answer in zip(order, outcome.answers, strict=True):
            assert answer.body.startswith(MARK) == (paths[number] == PATH)
            assert (b'"results"' in answer.body) == (paths[number] == "/decrypt/batch" and answer.status == 200)


async def test_it_is_counted_by_its_own_path(sides: Sides) -> None:
    good, bad = make(target=PATH), make(b"{", target=PATH)
    for side in sides:
        await talk(side, [good, bad, good, make(b"", target=PATH, method="GET", length=None)])
        counted = {key: side.metrics.row[cell] for key, cell in side.metrics.http_requests.items()}
        assert {key: count for key, count in counted.items() if count} == {
            (PATH, 200): 2,
            (PATH, 400): 1,
            (PATH, 405): 1,
        }
        registry = build_registry(side.metrics)
        assert registry.get_sample_value("bidstream_http_requests_total", {"route": PATH, "code": "200"}) == 2


async def test_a_request_that_does_not_arrive_is_counted_by_its_path(handle: Handler) -> None:
    side = FastPathSide(limits=ConnectionLimits(1000, 60, 2, 2**26), routes=routes_with(handle))
    transport = side.connect()
    transport.feed(make(target=PATH)[:-1])
    for _ in range(3):
        side.connections.sweep()
    await settle()
    assert transport.statuses == [408]
    assert side.metrics.row[side.metrics.http_requests[PATH, 408]] == 1
    side.close()


async def test_a_path_that_does_not_exist_is_told_of_it(sides: Sides) -> None:
    for side in sides:
        ((answer,), _, _) = await talk(side, [make(target="/nowhere")])
        assert answer.status == 404
        for route in (*ROUTES, *routes_with(answer_another)):
            assert f"POST {route.path}" in answer.body.decode()


async def test_another_method_is_not_allowed(sides: Sides) -> None:
    for side, method in product(sides, ("GET", "PUT", "DELETE")):
        ((answer,), _, _) = await talk(side, [make(b"", target=PATH, method=method)])
        assert answer.status == 405
        assert b"Allow: POST" in answer.headers


@pytest.mark.parametrize("limit", [100, 100_000])
async def test_it_has_a_limit_of_its_own(handle: Handler, limit: int) -> None:
    sides = Sides(routes_with(handle, max_body_bytes=limit))
    fits, too_long = BODY + b" " * (limit - len(BODY)), BODY + b" " * (limit - len(BODY) + 1)
    for side in sides:
        answers, is_closed, _ = await talk(side, [make(fits, target=PATH)])
        assert [answer.status for answer in answers] == [200]
        assert not is_closed
        ((answer,), _, _) = await talk(side, [make(too_long, target=PATH)])
        assert answer.status == 413
        assert f"{limit} bytes" in answer.body.decode()
        # And the first route keeps its own.
        first = await talk(side, [make(BODY + b" " * (ROUTES[0].max_body_bytes - len(BODY)))])
        assert [answer.status for answer in first.answers] == [200]
    sides.close()


@pytest.mark.parametrize("has_fast_path", [True, False])
async def test_a_sampled_request_is_a_span_of_its_route(handle: Handler, *, has_fast_path: bool) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    request = make(BODY, f"traceparent: 00-{trace_id}-b7ad6b7169203331-01", target=PATH)
    side, routes = Side(), routes_with(handle)
    side.close()
    metrics = MetricCells(labels_of(routes))
    decrypt = TokenDecryptor(KeyStores([side.store]), metrics, on_unknown_key=lambda *_: None)
    with running_collector() as collector:
        tracer = Tracer(collector.url)
        listeners = open_listeners([TcpAddress("127.0.0.1", 0)])
        address = listeners[0].address
        assert isinstance(address, TcpAddress)
        settings = load_settings(operator_url="http://127.0.0.1:9", api_key="key", client_secret=STATE.client_secret)
        server = DataServer(
            settings, listeners, decrypt, metrics, tracer=tracer, has_fast_path=has_fast_path, routes=routes
        )
        async with server:
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(request)
            writer.write_eof()
            (answer,) = split_answers(await reader.read())
            writer.close()
        assert answer.status == 200
        await asyncio.to_thread(tracer.close)
        told = attributes(collector.wait(trace_id).attributes)
    assert told == {
        "http.request.method": "POST",
        "http.route": PATH,
        "http.response.status_code": 200,
        "bidstream.token_count": 1,
        "bidstream.success_count": 0,
        "bidstream.status": "VERSION_NOT_SUPPORTED",
    }
