"""With an opt-out store, a kernel answers only what is surely not in it, and Python gives the same."""

from mmap import mmap
from typing import cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, build_kernel
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.status import FailureReason
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.keystore.store import KeysInUse, KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.optouts.optout_reader import OptOutReader
from bidstream_svc.optouts.optout_records import decode_raw_id
from bidstream_svc.server.bid_handlers import answer_bid_request, answer_rewrite
from bidstream_svc.server.handlers import BoundKeys, TokenDecryptor, answer_batch, answer_decrypt
from tests.optouts.cases import bid_request
from tests.support.optouts import OptedOut

if IS_NATIVE:
    from bidstream_svc.core.kernel import OptOutFilter

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="the kernel is not built")

STATES = {scope: OperatorState(seed=scope, scope=scope) for scope in IdentityScope}
SNAPSHOTS = {scope: parse_key_response(orjson.dumps(bidstream_keys(state, {}))) for scope, state in STATES.items()}
PEOPLE = [f"{number}@example.com" for number in range(4)]
ALL = [(scope, STATES[other].raw_uid(person)) for scope in STATES for other in STATES for person in PEOPLE]
_GENERATION = 1  # the place of the generation in use among the control words


class OptOutsInMemory:
    """What a KeyStore needs of an OptOutReader, with the native filter or without."""

    def __init__(self, optouts: list[OptedOut], *, has_filter: bool = True) -> None:
        self._optouts = optouts
        self.native_filter: OptOutFilter | None = None
        if has_filter:
            control, words = (memoryview(mmap(-1, size)).cast("q") for size in (4096, 65536))
            self.native_filter = OptOutFilter(control, withholds=False)
            self.native_filter.map(words, bytes(16), 1)
            control[_GENERATION] = 1
        self.opt_out(optouts)

    def opt_out(self, optouts: list[OptedOut]) -> None:
        if self.native_filter is not None:
            self.native_filter.add([bytes([scope]) + decode_raw_id(uid) for scope, uid in optouts])
        self._optouts = [*self._optouts, *optouts]

    def check(self, scope: IdentityScope, uid: str, _now_ms: int) -> FailureReason | None:
        return FailureReason.OPTED_OUT if (scope, uid) in self._optouts else None


def stores_of(optouts: OptOutsInMemory, *, has_kernels: bool = True) -> KeyStores:
    return KeyStores(
        [
            KeyStore(
                KeysInUse(snapshot, build_kernel(snapshot) if has_kernels else None),
                scope=scope,
                optouts=cast("OptOutReader", optouts),
            )
            for scope, snapshot in SNAPSHOTS.items()
        ]
    )


def bind(stores: KeyStores) -> tuple[BoundKeys, MetricCells]:
    metrics = MetricCells()
    return TokenDecryptor(stores, metrics, on_unknown_key=lambda *_: None).bind(), metrics


def test_without_the_filter_no_kernel_is_asked() -> None:
    stores = stores_of(OptOutsInMemory(ALL, has_filter=False))
    for store in stores.all:
        assert store.snapshot is not None
        store.keys = KeysInUse(store.snapshot, build_kernel(store.snapshot))
    assert stores.current.kernels == ()
    assert [store.keys.kernel for store in stores.all] == [None, None]
    bound, _ = bind(stores)
    for state in STATES.values():
        body = orjson.dumps({"token": state.mint_token(identity=PEOPLE[0])})
        assert orjson.loads(answer_decrypt(bound, body, state.now_ms())[1])["status"] == "USER_OPTED_OUT"


def test_kernels_of_later_keys_have_the_filter() -> None:
    optouts = OptOutsInMemory([])
    stores = stores_of(optouts)
    for store, state in zip(stores.all, STATES.values(), strict=True):
        assert store.snapshot is not None
        store.keys = KeysInUse(store.snapshot, build_kernel(store.snapshot))
        kernel = store.keys.kernel
        assert kernel is not None
        assert kernel in stores.current.kernels
        token = state.mint_token(identity=PEOPLE[0])
        assert kernel.decrypt(token, None, state.now_ms()) is not None
        optouts.opt_out([(state.scope, state.raw_uid(PEOPLE[0]))])
        assert kernel.decrypt(token, None, state.now_ms()) is None


@given(data=st.data())
def test_whenever_a_kernel_answers_python_gives_the_same(data: st.DataObject) -> None:
    optouts = OptOutsInMemory(data.draw(st.lists(st.sampled_from(ALL))))
    (native, native_cells), (python, cells) = bind(stores_of(optouts)), bind(stores_of(optouts, has_kernels=False))
    assert native.kernels
    assert not python.kernels
    tokens = [
        (
            scope,
            STATES[scope].mint_token(
                data.draw(st.sampled_from([2, 3, 4])),
                identity=data.draw(st.sampled_from(PEOPLE)),
                client_side=data.draw(st.booleans()),
                lifetime_s=data.draw(st.sampled_from([600, 600, 600, -60])),
            ),
        )
        for scope in data.draw(st.lists(st.sampled_from(IdentityScope), min_size=1, max_size=4))
    ]
    domain = data.draw(st.sampled_from([None, "example.com", "www.Example.com", "example.net"]))
    requests = [{"token": token, "domain": domain} for _, token in tokens]
    now_ms = STATES[IdentityScope.UID2].now_ms()
    for _ in range(2):  # names that Python has found registered are remembered by the kernel
        for request in requests:
            body = orjson.dumps(request)
            assert answer_decrypt(native, body, now_ms) == answer_decrypt(python, body, now_ms)
        body = orjson.dumps({"requests": requests})
        assert answer_batch(native, body, now_ms) == answer_batch(python, body, now_ms)
        body = orjson.dumps(bid_request(domain, *tokens))
        for answer in (answer_bid_request, answer_rewrite):
            assert answer(native, body, now_ms) == answer(python, body, now_ms)
        optouts.opt_out(data.draw(st.lists(st.sampled_from(ALL))))
    assert list(native_cells.row) == list(cells.row)
