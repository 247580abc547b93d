"""Request handlers: functions from the body of a request to an answer, independent of any HTTP library.

A handler that needs long returns a generator instead of an answer. The generator yields at points where other
connections may be served, and returns the answer. The fast path and aiohttp call the same handlers, so that their
answers are the same.

Where there is a native kernel, it is asked first. What it does not answer is decided by the Python code, as it is where
there is none.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import SOURCES, BidRequestDecryptor, Sources
from bidstream_svc.core.programmes import bind_programmes
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.keystore.store import CurrentKeys, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import BID_REQUESTS, SUCCESS_CELLS, BidRequestResult
from bidstream_svc.metrics.failure_sample import FailureSample
from bidstream_svc.server.answers import Answer, batch_body, error_answer, fill_gaps, verdict_body
from bidstream_svc.server.batch_body import STEP_BYTES, TokenRequest, decode_batch, decode_request, read_batch
from bidstream_svc.server.bid_decryption import bind_bid_requests
from bidstream_svc.server.json_repair import repair

if TYPE_CHECKING:  # it is not there where it was not built
    from bidstream_svc.core.kernel import BidRequests, Kernel

TOKENS_PER_ITERATION = 64
_SLOW_PER_ITERATION = 4  # with names that take up to 0.3 ms each to normalise

_UNKNOWN_KEY_REASONS = frozenset({FailureReason.MASTER_KEY_UNKNOWN, FailureReason.SITE_KEY_UNKNOWN})
_SCOPES: dict[str | None, IdentityScope | None] = {None: None, **{scope.name: scope for scope in IdentityScope}}

# (token, domain, scope that the request names or None, now_ms) -> the verdict as JSON, after counting it.
DecryptToJson: TypeAlias = Callable[[str, str | None, str | None, int], bytes]
LongAnswer: TypeAlias = Generator[None, None, Answer]


@dataclass(slots=True)  # not frozen, because that is slower to make
class BoundKeys:
    """Decryption with the keys of all programmes at one moment, bound to the counters.

    Attributes:
        decrypt_to_json: decrypts any token and counts the verdict.
        kernels: the native kernels to ask, in this order. They do not count.
        count_successes: counts so many verdicts of the kernel at an index.
        bid_requests: decrypts the tokens in bid requests and counts the verdicts.
        count_bid_request: counts a bid request.
        native_bid_requests: answers bid requests if all of their tokens are good, and does not count; None if there is
            no native kernel.
    """

    decrypt_to_json: DecryptToJson
    kernels: "tuple[Kernel, ...]" = ()
    count_successes: Callable[[int, int], None] = lambda _count, _kernel: None
    bid_requests: BidRequestDecryptor = field(default_factory=partial(BidRequestDecryptor, {}))
    count_bid_request: Callable[[BidRequestResult], None] = lambda _result: None
    native_bid_requests: "BidRequests | None" = None


# (keys, body, now_ms) -> answer
Handler: TypeAlias = Callable[[BoundKeys, bytes, int], Answer | LongAnswer]

_NOT_DECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def answer_decrypt(keys: BoundKeys, body: bytes, now_ms: int) -> Answer:
    """Answer `POST /decrypt`; `now_ms` is the current time in Unix milliseconds."""
    for index, kernel in enumerate(keys.kernels):
        success = kernel.answer(body, now_ms)
        if success is not None:
            keys.count_successes(1, index)
            return 200, success
    return _answer_decrypt(keys.decrypt_to_json, body, now_ms)


def _answer_decrypt(decrypt_to_json: DecryptToJson, body: bytes, now_ms: int, *, is_repaired: bool = False) -> Answer:
    try:
        request = decode_request(body)
    except _NOT_DECODABLE as error:
        repaired = None if is_repaired else _repair_short(body, error)
        if repaired is None:
            return _bad_request(error)
        return _answer_decrypt(decrypt_to_json, repaired, now_ms, is_repaired=True)
    return 200, decrypt_to_json(request.token, request.domain, request.scope, now_ms)


def answer_batch(keys: BoundKeys, body: bytes, now_ms: int) -> Answer | LongAnswer:
    """Answer `POST /decrypt/batch`; one snapshot and one time apply to all of its tokens."""
    if len(body) > STEP_BYTES:
        return _answer_long_batch(keys, body, now_ms)
    return _answer_by_kernel(keys, body, now_ms) or _answer_batch(keys.decrypt_to_json, body, now_ms)


def _answer_long_batch(keys: BoundKeys, body: bytes, now_ms: int) -> LongAnswer:
    answer = _answer_by_kernel(keys, body, now_ms) or _read_and_answer(keys.decrypt_to_json, body, now_ms)
    if isinstance(answer, tuple):
        return answer
    if keys.kernels:
        yield
    return (yield from answer)


def _answer_by_kernel(keys: BoundKeys, body: bytes, now_ms: int) -> Answer | LongAnswer | None:
    """Let the first kernel answer a batch, which takes it less than a millisecond, and decrypt here what it leaves."""
    if not keys.kernels:
        return None
    answer = keys.kernels[0].answer_batch(body, now_ms)
    if answer is None:
        return None
    json, successes, left = answer
    keys.count_successes(successes, 0)
    if not left:
        return 200, json
    decrypt_to_json = partial(_decrypt_left, keys) if len(keys.kernels) > 1 else keys.decrypt_to_json
    parts = _decode_left(body, left)
    join = partial(fill_gaps, json, [gap for gap, _, _ in left])
    if len(body) > STEP_BYTES or len(left) > TOKENS_PER_ITERATION:
        return _answer_in_steps(decrypt_to_json, parts, now_ms, join)
    return _answer_few(decrypt_to_json, next(parts), now_ms, join)


def _decrypt_left(keys: BoundKeys, token: str, domain: str | None, scope: str | None, now_ms: int) -> bytes:
    """Decrypt what the first kernel has left: by the other kernels, or else by the Python code."""
    if scope is None:
        for index, kernel in enumerate(keys.kernels[1:], 1):
            success = kernel.decrypt(token, domain, now_ms)
            if success is not None:
                keys.count_successes(1, index)
                return verdict_body((DecryptionStatus.SUCCESS, *success, None))
    return keys.decrypt_to_json(token, domain, scope, now_ms)


def _decode_left(body: bytes, left: list[tuple[int, int, int]]) -> Iterator[list[TokenRequest]]:
    """Decode what the kernel has left, as much at a time as is decrypted in one iteration."""
    step: list[TokenRequest] = []
    step_bytes = 0
    for _, start, end in left:
        step_bytes += end - start
        if step and (len(step) == TOKENS_PER_ITERATION or step_bytes > STEP_BYTES):
            yield step
            step, step_bytes = [], end - start
        step.append(decode_request(body[start:end]))
    yield step


def _answer_batch(
    decrypt_to_json: DecryptToJson, body: bytes, now_ms: int, *, is_repaired: bool = False
) -> Answer | LongAnswer:
    if len(body) > STEP_BYTES:
        return _read_and_answer(decrypt_to_json, body, now_ms, is_repaired=is_repaired)
    try:
        requests = decode_batch(body)
    except _NOT_DECODABLE as error:
        repaired = None if is_repaired else _repair_short(body, error)
        if repaired is None:
            return _bad_request(error)
        return _answer_batch(decrypt_to_json, repaired, now_ms, is_repaired=True)
    return _answer_few(decrypt_to_json, requests, now_ms, batch_body)


def _read_and_answer(
    decrypt_to_json: DecryptToJson, body: bytes, now_ms: int, *, is_repaired: bool = False
) -> LongAnswer:
    try:
        parts = yield from read_batch(body)
    except _NOT_DECODABLE as error:
        repaired = None if is_repaired else (yield from _repair(body, error))
        if repaired is None:
            return _bad_request(error)
        yield
        return (yield from _read_and_answer(decrypt_to_json, repaired, now_ms, is_repaired=True))
    return (yield from _answer_in_steps(decrypt_to_json, parts, now_ms, batch_body))


# `join` makes the body of the answer from those of the verdicts.


def _answer_few(
    decrypt_to_json: DecryptToJson, requests: list[TokenRequest], now_ms: int, join: Callable[[list[bytes]], bytes]
) -> Answer | LongAnswer:
    """Answer requests that were decoded together, at once if they are few."""
    if len(requests) > TOKENS_PER_ITERATION or _has_slow_name(requests):
        return _answer_in_steps(decrypt_to_json, [requests], now_ms, join)
    return 200, join([decrypt_to_json(request.token, request.domain, request.scope, now_ms) for request in requests])


def _answer_in_steps(
    decrypt_to_json: DecryptToJson,
    parts: Iterable[list[TokenRequest]],
    now_ms: int,
    join: Callable[[list[bytes]], bytes],
) -> LongAnswer:
    bodies: list[bytes] = []
    for step in _split(parts):
        if bodies:
            yield
        bodies += [decrypt_to_json(request.token, request.domain, request.scope, now_ms) for request in step]
    return 200, join(bodies)


def _split(parts: Iterable[list[TokenRequest]]) -> Iterator[list[TokenRequest]]:
    """Split what was decoded together into what is decrypted in one iteration."""
    for part in parts:
        for start in range(0, len(part), TOKENS_PER_ITERATION):
            step = part[start : start + TOKENS_PER_ITERATION]
            if _has_slow_name(step):
                yield from (step[n : n + _SLOW_PER_ITERATION] for n in range(0, len(step), _SLOW_PER_ITERATION))
            else:
                yield step


def _has_slow_name(requests: list[TokenRequest]) -> bool:
    """Return whether a domain has to be mapped: it is not ASCII, or perhaps an IDNA form such as `xn--bcher-kva`."""
    names = "".join([request.domain or "" for request in requests])
    # A search for one character is several times as fast as one for two.
    return not names.isascii() or ("-" in names and "--" in names)


def _repair(body: bytes, error: Exception) -> Generator[None, None, bytes | None]:
    """Return a body whose decoding raised `error` in a form that may be decodable; None if there is none.

    Raising `error` again would keep the body in memory, in a cycle of references, until the next garbage collection.
    """
    if isinstance(error, msgspec.ValidationError):
        return None
    return (yield from repair(body))


def _repair_short(body: bytes, error: Exception) -> bytes | None:
    """Repair a body that is short enough to be repaired at once."""
    steps = _repair(body, error)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            repaired: bytes | None = end.value
            return repaired


def _bad_request(error: Exception) -> Answer:
    """Return a 400. msgspec's messages name fields, types and positions, but no values."""
    if isinstance(error, msgspec.ValidationError):
        return error_answer(400, "invalid_request", str(error))
    return error_answer(400, "invalid_json", "the body is not JSON in UTF-8")


class TokenDecryptor:
    """Decrypts tokens with the keys of all programmes and counts the verdicts.

    Args:
        stores: hold the current keys.
        metrics: counts verdicts by programme and status, and by reason.
        on_unknown_key: called for every token whose key is unknown, with the token's programme, None if that is
            unknown as well, and the token; must return quickly.
        eid_sources: the programme of each `source` of the eids in bid requests.
        sample: takes a sample of the tokens that were not decrypted; None for no sample.

    Attributes:
        stores: as given.
    """

    def __init__(
        self,
        stores: KeyStores,
        metrics: MetricCells,
        *,
        on_unknown_key: Callable[[IdentityScope | None, object], None],
        eid_sources: Sources = SOURCES,
        sample: FailureSample | None = None,
    ) -> None:
        self.stores = stores
        self._sample = sample
        self._eid_sources = eid_sources
        self._metrics = metrics
        self._on_unknown_key = on_unknown_key
        self._keys = stores.current
        self._bound = self._bind(self._keys)

    def bind(self) -> BoundKeys:
        """Bind the current keys."""
        keys = self.stores.current
        if keys is not self._keys:
            self._keys = keys
            self._bound = self._bind(keys)
        return self._bound

    def _bind(self, keys: CurrentKeys) -> BoundKeys:
        decrypt_token = bind_programmes(keys.programmes)
        row, count_failure = self._metrics.row, self._count_failure
        kernel_cells = [SUCCESS_CELLS[scope] for scope in keys.kernel_scopes]
        kernel_of: dict[IdentityScope | None, Kernel] = dict(zip(keys.kernel_scopes, keys.kernels, strict=True))

        def decrypt_to_json(token: str, domain: str | None, requested: str | None, now_ms: int) -> bytes:
            verdict, scope = decrypt_token(token, domain, _SCOPES[requested], now_ms)
            reason = verdict[3]
            if reason is None:
                row[SUCCESS_CELLS[scope]] += 1
                if domain is not None and (kernel := kernel_of.get(scope)) is not None:
                    kernel.note_success(token, domain, now_ms)
            else:
                count_failure(reason, scope, token, domain)
            return verdict_body(verdict)

        def count_successes(count: int, kernel: int) -> None:
            row[kernel_cells[kernel]] += count

        def count_bid_request(result: BidRequestResult) -> None:
            row[BID_REQUESTS[result]] += 1

        bid_requests = bind_bid_requests(keys, self._eid_sources, self._metrics, count_failure)
        return BoundKeys(
            decrypt_to_json, keys.kernels, count_successes, bid_requests, count_bid_request, bid_requests.native
        )

    def _count_failure(self, reason: FailureReason, scope: IdentityScope | None, token: object, name: object) -> None:
        self._metrics.count_failure(reason, scope)
        if (sample := self._sample) is not None:
            sample.skip -= 1
            if sample.skip < 0:
                sample.keep(reason, scope, token, name)
        if reason in _UNKNOWN_KEY_REASONS:
            self._on_unknown_key(scope, token)
