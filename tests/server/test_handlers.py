"""Request handlers without HTTP."""

import codecs
import gc
import sys
from collections.abc import Iterator

import orjson
import pytest

from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.handlers import Handler, TokenDecryptor, answer_batch, answer_decrypt


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_keys_that_were_replaced_are_let_go_at_once() -> None:
    state = OperatorState()
    response = orjson.dumps(bidstream_keys(state, {}))
    first, second = parse_key_response(response), parse_key_response(response)
    unused = sys.getrefcount(first)
    store = KeyStore(first)
    decryptor = TokenDecryptor(store, MetricCells(), on_unknown_key=lambda: None)
    body = orjson.dumps({"token": state.mint_token()})
    assert b"SUCCESS" in answer_decrypt(decryptor.bind(), body, state.now_ms())[1]
    assert sys.getrefcount(first) > unused
    store.snapshot = second
    assert b"SUCCESS" in answer_decrypt(decryptor.bind(), body, state.now_ms())[1]
    assert sys.getrefcount(first) == unused


@pytest.mark.parametrize(
    ("domain", "limit"),
    [(None, 64), ("example.com", 64), ("\u0130" * 255, 4), ("xn--bcher-kva.de", 4), ("XN--X.de", 4)],
)
@pytest.mark.parametrize("count", [1, 4, 5, 64, 65, 1000])
def test_few_names_that_are_slow_to_normalise_share_a_step(domain: str | None, limit: int, count: int) -> None:
    calls = 0

    def decrypt_to_json(_token: str, _domain: str | None, _now_ms: int) -> bytes:
        nonlocal calls
        calls += 1
        return b"{}"

    answer = answer_batch(decrypt_to_json, orjson.dumps({"requests": [{"token": "abcd", "domain": domain}] * count}), 0)
    while not isinstance(answer, tuple):
        assert calls <= limit
        calls = 0
        try:
            next(answer)
        except StopIteration as end:
            answer = end.value
    assert calls <= limit
    assert answer[0] == 200
    assert len(orjson.loads(answer[1])["results"]) == count


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("answer", [answer_decrypt, answer_batch])
@pytest.mark.parametrize("length", [1_000, 100_000])
def test_a_body_that_cannot_be_read_is_not_kept(answer: Handler, length: int) -> None:
    """An exception in a cycle of references would keep it until the next garbage collection."""
    body = b'{"token":"' + b"a" * length
    unused = sys.getrefcount(body)
    result = answer(lambda *_: b"", body, 0)
    if not isinstance(result, tuple):
        assert next(result, None) is None
    del result
    assert sys.getrefcount(body) == unused


@pytest.mark.parametrize("answer", [answer_decrypt, answer_batch])
def test_a_body_is_mended_once(answer: Handler) -> None:
    """Each further time would take as long as the first."""
    assert answer(lambda *_: b"", codecs.BOM_UTF8 * 2 + b"{}", 0)[0] == 400  # type: ignore[index]
