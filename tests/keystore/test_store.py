"""What the stores of several programmes publish together, and that kernels and Python agree about it."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, build_kernel
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.keystore.store import KeysInUse, KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.handlers import BoundKeys, TokenDecryptor, answer_batch, answer_decrypt
from tests.core import strategies
from tests.vectors.load import key_snapshot

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="the kernel is not built")

UID2, EUID = IdentityScope
STATES = [OperatorState(seed=scope, scope=scope) for scope in IdentityScope]
SNAPSHOTS = [parse_key_response(orjson.dumps(bidstream_keys(state, {}))) for state in STATES]
# The same keys in both programmes.
VECTORS = [snapshot for name in ("uid2", "euid") if (snapshot := key_snapshot(name)) is not None]


def stores_of(snapshots: list[KeySnapshot], *, has_kernels: bool = True) -> KeyStores:
    return KeyStores(
        [
            KeyStore(KeysInUse(snapshot, build_kernel(snapshot) if has_kernels else None), scope=snapshot.scope)
            for snapshot in snapshots
        ]
    )


def bind(snapshots: list[KeySnapshot], *, has_kernels: bool) -> tuple[BoundKeys, MetricCells]:
    metrics = MetricCells()
    stores = stores_of(snapshots, has_kernels=has_kernels)
    return TokenDecryptor(stores, metrics, on_unknown_key=lambda *_: None).bind(), metrics


def test_a_replaced_key_set_is_published() -> None:
    stores = stores_of(SNAPSHOTS)
    first = stores.current
    assert first.kernel_scopes == (UID2, EUID)
    stores.all[1].keys = KeysInUse(SNAPSHOTS[1], None)
    assert stores.current.kernel_scopes == (UID2,)
    assert [each[:2] for each in stores.current.programmes] == [each[:2] for each in first.programmes]
    assert [each.open_natively is None for each in stores.current.programmes] == [False, True]
    assert first.kernel_scopes == (UID2, EUID)


def test_programmes_with_a_key_in_common_have_one_kernel() -> None:
    """A v2 token could open in both. If the first one refuses it, the second must not be asked."""
    assert [keys.scope for keys in VECTORS] == [UID2, EUID]
    assert stores_of(VECTORS).current.kernel_scopes == (UID2,)


@pytest.mark.parametrize("snapshots", [SNAPSHOTS, VECTORS], ids=["distinct keys", "the same keys"])
@given(data=st.data())
def test_whenever_a_kernel_answers_python_gives_the_same(snapshots: list[KeySnapshot], data: st.DataObject) -> None:
    if snapshots is VECTORS:
        token = data.draw(strategies.built_tokens() | strategies.layered_tokens())
        domain, now_ms = data.draw(strategies.domains), data.draw(strategies.nows_ms)
    else:
        state = data.draw(st.sampled_from(STATES))
        token = state.mint_token(
            data.draw(st.sampled_from([2, 3, 4])),
            lifetime_s=data.draw(st.sampled_from([-60, 600, 30 * 86_400])),
            client_side=data.draw(st.booleans()),
            opted_out=data.draw(st.booleans()),
        )
        domain, now_ms = data.draw(st.sampled_from([None, "example.com", "EXAMPLE.com", "b.net"])), state.now_ms()
    request = {"token": token} if not isinstance(domain, str) else {"token": token, "domain": domain}
    try:
        bodies = orjson.dumps(request), orjson.dumps({"requests": [request, {"token": "?"}]})
    except TypeError:  # a lone surrogate
        return
    with_kernels, its_metrics = bind(snapshots, has_kernels=True)
    python, metrics = bind(snapshots, has_kernels=False)
    assert with_kernels.kernels
    assert answer_decrypt(with_kernels, bodies[0], now_ms) == answer_decrypt(python, bodies[0], now_ms)
    one, other = answer_batch(with_kernels, bodies[1], now_ms), answer_batch(python, bodies[1], now_ms)
    if isinstance(one, tuple) and isinstance(other, tuple):
        assert one == other
        assert list(its_metrics.row) == list(metrics.row)
