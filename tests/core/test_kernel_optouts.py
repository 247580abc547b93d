"""A kernel with a filter never answers an id that was added to it, by any way in, and answers others as before."""

import gc
import json
import pickle
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable
from mmap import mmap
from typing import Any

import pytest

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import (
    BidRequests,
    Content,
    Kernel,
    Lane,
    LaneCells,
    OptOutFilter,
    build_bid_requests,
    build_kernel,
)
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.token import BUILDERS
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.server.handlers import BoundKeys
from tests.core.kernel_inputs import Input, Inputs
from tests.core.test_kernel import UID2, body_of, keys_of
from tests.vectors.inputs import NOW_MS, build

KEY = bytes(range(16))
GENERATION, FRESH_UNTIL_MS = 1, 3
INPUTS = 5_000
HEAD = {content: b"POST /%d HTTP/1.1\r\nContent-Length: " % content for content in [*Content][1:]}


class Filtered:
    """A filter of generation 1 in memory, its control words, and kernels that ask it."""

    def __init__(self, *, withholds: bool = False, blocks: int = 4_096) -> None:
        self.control = words(32)
        self.control[GENERATION] = 1
        self.filter = OptOutFilter(self.control, withholds=withholds)
        self.filter.map(words(64 * blocks), KEY, 1)

    def kernel(self, keys: Any = UID2) -> Kernel:
        kernel = build_kernel(keys)
        kernel.set_optouts(self.filter)
        return kernel


def words(size: int) -> memoryview:
    return memoryview(mmap(-1, size)).cast("q")


def filter_id(scope: IdentityScope, uid: str) -> bytes | None:
    """What is added for a raw uid; None if it cannot be opted out."""
    try:
        raw_id = b64decode(uid, validate=True)
    except ValueError:
        return None
    return bytes([scope]) + raw_id if len(raw_id) in {32, 33} and b64encode(raw_id).decode() == uid else None


def bid_request(token: str, scope: IdentityScope) -> bytes:
    source = {IdentityScope.UID2: "uidapi.com", IdentityScope.EUID: "euid.eu"}[scope]
    return json.dumps({"user": {"eids": [{"source": source, "uids": [{"id": token}]}]}}).encode()


def bind_bid_requests(kernel: Kernel) -> BidRequests:
    native = build_bid_requests([kernel], {"uidapi.com": IdentityScope.UID2, "euid.eu": IdentityScope.EUID})
    assert native is not None
    return native


def batch_answer(kernel: Kernel, body: bytes, now_ms: int) -> bytes | None:
    answer = kernel.answer_batch(b'{"requests":[%b]}' % body, now_ms)
    return answer[0] if answer is not None and answer[1] == 1 else None


def decrypt_members(kernel: Kernel, body: bytes, now_ms: int) -> tuple[str, int] | None:
    try:
        members = json.loads(body)
    except ValueError:
        return None
    return kernel.decrypt(members.get("token"), members.get("domain"), now_ms) if isinstance(members, dict) else None


# From a kernel, a body and a time to an answer, or None.
WAYS: dict[str, Callable[[Kernel, bytes, int], object]] = {
    "single": lambda kernel, body, now_ms: kernel.answer(body, now_ms),
    "batch": batch_answer,
    "decrypt": decrypt_members,
}


def test_what_was_added_is_never_answered_and_what_was_not_is_answered_as_before() -> None:
    inputs, counts = Inputs(15), Counter[str]()
    filtered = Filtered()
    kernels: dict[int, Kernel] = {}
    for _ in range(INPUTS):
        input_ = inputs.input()
        scenario = input_.scenario
        kernel = kernels.setdefault(id(scenario), filtered.kernel(scenario.snapshot))
        counts[check(input_, kernel, filtered)] += 1
    assert min(counts[kind] for kind in ("forbidden", "nothing to answer", "not filtered")) > 5, counts


def check(input_: Input, kernel: Kernel, filtered: Filtered) -> str:
    plain, body, now_ms = input_.scenario.kernel, input_.body, input_.now_ms
    answers = {way: ask(plain, body, now_ms) for way, ask in WAYS.items()}

    def answers_now() -> dict[str, object]:
        return {way: ask(kernel, body, now_ms) for way, ask in WAYS.items()}

    nothing: dict[str, object] = dict.fromkeys(WAYS)
    if answers == nothing:
        assert answers_now() == nothing
        return "nothing to answer"
    decrypted = answers["decrypt"]
    assert isinstance(decrypted, tuple)
    added = filter_id(input_.scenario.snapshot.scope, decrypted[0])
    if added is None:
        assert answers_now() == nothing
        return "not filtered"
    if not filtered.filter.may_contain(added[0], added[1:]):
        filtered.filter.add([bytes([1 - added[0]]) + added[1:]])  # of the other programme
        assert answers_now() == answers
    filtered.filter.add([added])
    assert answers_now() == nothing
    return "forbidden"


@pytest.mark.parametrize("version", BUILDERS)
@pytest.mark.parametrize("scope", IdentityScope)
def test_bid_requests(version: int, scope: IdentityScope) -> None:
    filtered, keys = Filtered(), keys_of(scope.name.lower())
    kernel = filtered.kernel(keys)
    token = build(version, scope=scope).token
    uid = json.loads(build_kernel(keys).answer(body_of(token), NOW_MS) or b"")["uid"]
    body, plain = bid_request(token, scope), bind_bid_requests(build_kernel(keys))
    native = bind_bid_requests(kernel)
    for ask in ("find", "rewrite"):
        assert getattr(native, ask)(body, NOW_MS) == getattr(plain, ask)(body, NOW_MS) is not None
    added = filter_id(scope, uid)
    assert added is not None
    filtered.filter.add([added])
    for ask in ("find", "rewrite"):
        assert getattr(native, ask)(body, NOW_MS) is None
    for way in WAYS.values():
        assert way(kernel, body_of(token), NOW_MS) is None


@pytest.mark.parametrize("scope", IdentityScope)
def test_a_lane(scope: IdentityScope) -> None:
    state, filtered = OperatorState(seed=15, scope=scope), Filtered()
    kernel = filtered.kernel(parse_key_response(json.dumps(bidstream_keys(state, {}))))
    lane: Lane[str] = Lane(words(64), LaneCells(0, 1, 2, 3, 4, 5, 6), lambda: bound)
    bound = BoundKeys(lambda *_: b"asked", (kernel,), native_bid_requests=bind_bid_requests(kernel))
    for content in (Content.TOKEN, Content.BID_REQUEST, Content.BID_REQUEST_TO_REWRITE):
        lane.learn(content.name, [(HEAD[content], 0)], b"\r\n\r\n", 2**20, content, 0)
    lane.set_response_start(b"HTTP/1.1 200 OK\r\nContent-Length: ")
    token = state.mint_token()
    bodies = {content: body_of(token) if content is Content.TOKEN else bid_request(token, scope) for content in HEAD}

    def outcomes() -> set[str]:
        taken = (lane.take(HEAD[content] + b"%d\r\n\r\n" % len(body) + body, 0) for content, body in bodies.items())
        return {"Python" if not isinstance(each, bytes) or each.endswith(b"asked") else "answered" for each in taken}

    assert outcomes() == {"answered"}
    decrypted = kernel.decrypt(token, None, wall_clock_ms())
    assert decrypted is not None
    added = filter_id(scope, decrypted[0])
    assert added is not None
    filtered.filter.add([added])
    assert outcomes() == {"Python"}


def test_nothing_is_answered_while_another_generation_is_in_use_or_no_filter_is_mapped() -> None:
    filtered = Filtered()
    kernel, body = filtered.kernel(), body_of(build(4).token)

    def is_answered() -> bool:
        answers = [way(kernel, body, NOW_MS) is not None for way in WAYS.values()]
        assert len(set(answers)) == 1
        return answers[0]

    assert is_answered()
    for other in (0, 2, -1):
        filtered.control[GENERATION] = other
        assert not is_answered()
    filtered.control[GENERATION] = 1
    assert is_answered()
    filtered.filter.unmap()
    assert not is_answered()
    assert filtered.filter.generation is None
    filtered.filter.map(words(64), KEY, 1)
    assert is_answered()


@pytest.mark.parametrize("withholds", [False, True])
def test_a_store_that_is_not_synced(*, withholds: bool) -> None:
    filtered = Filtered(withholds=withholds)
    kernel, body = filtered.kernel(), body_of(build(4).token)
    filtered.control[FRESH_UNTIL_MS] = NOW_MS - 1
    assert (kernel.answer(body, NOW_MS) is None) == withholds
    filtered.control[FRESH_UNTIL_MS] = NOW_MS
    assert kernel.answer(body, NOW_MS) is not None
    assert not filtered.filter.may_contain(0, bytes(32))


def test_pairs_of_the_store_are_added_as_their_ids() -> None:
    filtered = Filtered()
    for length in (32, 33):
        ids = [bytes([number]) * length for number in range(200, 210)]
        filtered.filter.add_pairs(1, b"".join(b"\0" + each + bytes(8) for each in ids), 1 + length + 8)
        assert all(filtered.filter.may_contain(1, each) for each in ids)
        assert not all(filtered.filter.may_contain(0, each) for each in ids)
        assert not all(filtered.filter.may_contain(1, b"\0" + each[:-1]) for each in ids)


def test_what_is_not_a_filter_is_refused() -> None:
    filtered = Filtered()
    for no_words in (memoryview(bytes(64)).cast("q"), memoryview(bytearray(64))[4:60].cast("q"), words(64)[::2]):
        with pytest.raises((ValueError, BufferError)):
            filtered.filter.map(no_words, KEY, 2)
    for count, key, generation in ((56, KEY, 2), (64, KEY[1:], 2), (64, KEY, 0)):
        with pytest.raises(ValueError, match=r"."):
            filtered.filter.map(words(count), key, generation)
    with pytest.raises(BufferError):
        filtered.filter.map(memoryview(mmap(-1, 64)), KEY, 2)  # bytes
    with pytest.raises(ValueError, match="control"):
        OptOutFilter(words(24), withholds=True)
    for ids in ([b""], [bytes(32)], [bytes(33), bytes(35)]):
        with pytest.raises(ValueError, match="raw uid"):
            filtered.filter.add(ids)
    for pairs, pair_bytes in ((bytes(83), 42), (bytes(82), 40), (bytes(82), 0), (bytes(86), 43)):
        with pytest.raises(ValueError, match="raw uid"):
            filtered.filter.add_pairs(0, pairs, pair_bytes)
    assert filtered.filter.generation == 1
    assert not filtered.filter.may_contain(0, bytes(32))
    assert filtered.filter.may_contain(0, bytes(31))
    filtered.filter.unmap()
    with pytest.raises(RuntimeError, match="mapped"):
        filtered.filter.add([bytes(33)])


def test_a_kernel_has_one_filter_for_good() -> None:
    filtered = Filtered()
    kernel = filtered.kernel()
    with pytest.raises(RuntimeError, match="has a filter"):
        kernel.set_optouts(filtered.filter)
    with pytest.raises(TypeError):
        pickle.dumps(filtered.filter)
    assert repr(filtered.filter).startswith("<bidstream_svc.core.kernel._native.OptOutFilter object at 0x")


def test_mapped_memory_is_released_with_the_filter_and_with_the_kernels() -> None:
    control, blocks = mmap(-1, 32), mmap(-1, 64)
    optouts = OptOutFilter(memoryview(control).cast("q"), withholds=False)
    optouts.map(memoryview(blocks).cast("q"), KEY, 1)
    with pytest.raises(BufferError):
        blocks.close()
    optouts.unmap()
    blocks.close()
    kernel = build_kernel(UID2)
    kernel.set_optouts(optouts)
    del optouts
    with pytest.raises(BufferError):
        control.close()
    del kernel
    gc.collect()
    control.close()
