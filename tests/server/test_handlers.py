"""Request handlers without HTTP."""

import codecs
import gc
import sys
from collections.abc import Iterator

import orjson
import pytest

from bidstream_svc.core.kernel import IS_NATIVE, build_kernel
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.keystore.store import KeysInUse, KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import DECRYPTIONS, ScopeLabel
from bidstream_svc.server.handlers import BoundKeys, Handler, TokenDecryptor, answer_batch, answer_decrypt
from tests.vectors.load import key_snapshot


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
    kernel = build_kernel(first) if IS_NATIVE else None
    unused, unused_kernel = sys.getrefcount(first), sys.getrefcount(kernel)
    store = KeyStore(KeysInUse(first, kernel))
    decryptor = TokenDecryptor(KeyStores([store]), MetricCells(), on_unknown_key=lambda *_: None)
    body = orjson.dumps({"token": state.mint_token()})
    assert b"SUCCESS" in answer_decrypt(decryptor.bind(), body, state.now_ms())[1]
    assert sys.getrefcount(first) > unused
    store.keys = KeysInUse(second)
    assert b"SUCCESS" in answer_decrypt(decryptor.bind(), body, state.now_ms())[1]
    assert sys.getrefcount(first) == unused
    assert kernel is None or sys.getrefcount(kernel) == unused_kernel


@pytest.mark.parametrize(
    ("domain", "limit"),
    [(None, 64), ("example.com", 64), ("\u0130" * 255, 4), ("xn--bcher-kva.de", 4), ("XN--X.de", 4)],
)
@pytest.mark.parametrize("count", [1, 4, 5, 64, 65, 1000])
@pytest.mark.parametrize("has_kernel", {False, IS_NATIVE})
def test_few_names_that_are_slow_to_normalise_share_a_step(
    domain: str | None, limit: int, count: int, *, has_kernel: bool
) -> None:
    snapshot = key_snapshot("uid2")
    assert snapshot is not None
    kernel = build_kernel(snapshot) if has_kernel else None
    calls = 0

    def decrypt_to_json(_token: str, _domain: str | None, _scope: str | None, _now_ms: int) -> bytes:
        nonlocal calls
        calls += 1
        return b"{}"

    body = orjson.dumps({"requests": [{"token": "abcd", "domain": domain}] * count})
    answer = answer_batch(BoundKeys(decrypt_to_json, () if kernel is None else (kernel,)), body, 0)
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


@pytest.mark.skipif(not IS_NATIVE, reason="the kernel is not built")
def test_of_a_long_batch_the_kernel_answers_in_a_step_of_its_own() -> None:
    """So that its time is not added to that of the tokens that it leaves."""
    state = OperatorState()
    snapshot = parse_key_response(orjson.dumps(bidstream_keys(state, {})))
    metrics = MetricCells()
    store = KeyStore(KeysInUse(snapshot, build_kernel(snapshot)))
    keys = TokenDecryptor(KeyStores([store]), metrics, on_unknown_key=lambda *_: None).bind()
    good, bad = state.mint_token(), state.mint_token(lifetime_s=-1)
    body = orjson.dumps({"requests": [{"token": token} for token in [good, bad] * 200]})

    def counted() -> tuple[int, int]:
        success, failure = (
            DECRYPTIONS[ScopeLabel.UID2, status]
            for status in (DecryptionStatus.SUCCESS, DecryptionStatus.EXPIRED_TOKEN)
        )
        return metrics.row[success], metrics.row[failure]

    steps = answer_batch(keys, body, state.now_ms())
    assert not isinstance(steps, tuple)
    seen = [counted()]
    while next(steps, steps) is None:
        seen.append(counted())
    assert seen == [(0, 0), (200, 0), (200, 64), (200, 128), (200, 192)]
    assert counted() == (200, 200)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("answer", [answer_decrypt, answer_batch])
@pytest.mark.parametrize("length", [1_000, 100_000])
def test_a_body_that_cannot_be_read_is_not_kept(answer: Handler, length: int) -> None:
    """An exception in a cycle of references would keep it until the next garbage collection."""
    body = b'{"token":"' + b"a" * length
    unused = sys.getrefcount(body)
    result = answer(BoundKeys(lambda *_: b""), body, 0)
    if not isinstance(result, tuple):
        assert next(result, None) is None
    del result
    assert sys.getrefcount(body) == unused


@pytest.mark.parametrize("answer", [answer_decrypt, answer_batch])
def test_a_body_is_mended_once(answer: Handler) -> None:
    """Each further time would take as long as the first."""
    assert answer(BoundKeys(lambda *_: b""), codecs.BOM_UTF8 * 2 + b"{}", 0)[0] == 400  # type: ignore[index]
