"""Request handlers: functions from the body of a request to an answer, independent of any HTTP library.

A handler that needs long returns a generator instead of an answer. The generator yields at points where other
connections may be served, and returns the answer. The fast path and aiohttp call the same handlers, so that their
answers are the same.

Where there is a native kernel, it is asked first. What it does not answer is decided by the Python code, as it is where
there is none.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from bidstream_svc.core.decrypt import BoundDecrypt, bind_decrypt, decrypt_without_keys
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.keystore.store import NO_KEYS, KeysInUse, KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import DECRYPTIONS
from bidstream_svc.server.answers import Answer, batch_body, error_answer, fill_gaps, verdict_body
from bidstream_svc.server.batch_body import STEP_BYTES, TokenRequest, decode_batch, decode_request, read_batch
from bidstream_svc.server.json_repair import repair

if TYPE_CHECKING:  # it is not there where it was not built
    from bidstream_svc.core.kernel import Kernel

TOKENS_PER_ITERATION = 64
_SLOW_PER_ITERATION = 4  # with names that take up to 0.3 ms each to normalise

_UNKNOWN_KEY_REASONS = frozenset({FailureReason.MASTER_KEY_UNKNOWN, FailureReason.SITE_KEY_UNKNOWN})
_SUCCESS_CELL = DECRYPTIONS[DecryptionStatus.SUCCESS]

# (token, domain, now_ms) -> the verdict as JSON, after counting it.
DecryptToJson: TypeAlias = Callable[[str, str | None, int], bytes]
LongAnswer: TypeAlias = Generator[None, None, Answer]


@dataclass(slots=True)  # not frozen, because that is slower to make
class BoundKeys:
    """Decryption with one snapshot, bound to the counters.

    Attributes:
        decrypt_to_json: decrypts any token and counts the verdict.
        kernel: the native kernel of the snapshot, which does not count; None if there is none.
        count_successes: counts the verdicts of the kernel.
    """

    decrypt_to_json: DecryptToJson
    kernel: "Kernel | None" = None
    count_successes: Callable[[int], None] = lambda _count: None


# (keys, body, now_ms) -> answer
Handler: TypeAlias = Callable[[BoundKeys, bytes, int], Answer | LongAnswer]

_NOT_DECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def answer_decrypt(keys: BoundKeys, body: bytes, now_ms: int) -> Answer:
    """Answer `POST /decrypt`; `now_ms` is the current time in Unix milliseconds."""
    if keys.kernel is not None:
        success = keys.kernel.answer(body, now_ms)
        if success is not None:
            keys.count_successes(1)
            return 200, success
    return answer_decrypt_in_python(keys, body, now_ms)


def answer_decrypt_in_python(keys: BoundKeys, body: bytes, now_ms: int) -> Answer:
    """Answer `POST /decrypt` without asking the kernel, because it has been asked."""
    return _answer_decrypt(keys.decrypt_to_json, body, now_ms)


def _answer_decrypt(decrypt_to_json: DecryptToJson, body: bytes, now_ms: int, *, is_repaired: bool = False) -> Answer:
    try:
        request = decode_request(body)
    except _NOT_DECODABLE as error:
        repaired = None if is_repaired else _repair_short(body, error)
        if repaired is None:
            return _bad_request(error)
        return _answer_decrypt(decrypt_to_json, repaired, now_ms, is_repaired=True)
    return 200, decrypt_to_json(request.token, request.domain, now_ms)


def answer_batch(keys: BoundKeys, body: bytes, now_ms: int) -> Answer | LongAnswer:
    """Answer `POST /decrypt/batch`; one snapshot and one time apply to all of its tokens."""
    if len(body) > STEP_BYTES:
        return _answer_long_batch(keys, body, now_ms)
    return _answer_by_kernel(keys, body, now_ms) or _answer_batch(keys.decrypt_to_json, body, now_ms)


def _answer_long_batch(keys: BoundKeys, body: bytes, now_ms: int) -> LongAnswer:
    answer = _answer_by_kernel(keys, body, now_ms) or _read_and_answer(keys.decrypt_to_json, body, now_ms)
    if isinstance(answer, tuple):
        return answer
    if keys.kernel is not None:
        yield
    return (yield from answer)


def _answer_by_kernel(keys: BoundKeys, body: bytes, now_ms: int) -> Answer | LongAnswer | None:
    """Let the kernel answer a batch, which takes it less than a millisecond, and decrypt here what it leaves."""
    answer = None if keys.kernel is None else keys.kernel.answer_batch(body, now_ms)
    if answer is None:
        return None
    json, successes, left = answer
    keys.count_successes(successes)
    if not left:
        return 200, json
    parts = _decode_left(body, left)
    join = partial(fill_gaps, json, [gap for gap, _, _ in left])
    if len(body) > STEP_BYTES or len(left) > TOKENS_PER_ITERATION:
        return _answer_in_steps(keys.decrypt_to_json, parts, now_ms, join)
    return _answer_few(keys.decrypt_to_json, next(parts), now_ms, join)


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
    return 200, join([decrypt_to_json(request.token, request.domain, now_ms) for request in requests])


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
        bodies += [decrypt_to_json(request.token, request.domain, now_ms) for request in step]
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
    """Decrypts tokens with the keys in a store and counts the verdicts.

    Args:
        store: holds the current snapshot.
        metrics: counts verdicts by status and reason.
        on_unknown_key: called for every token whose key is unknown; must return quickly.

    Attributes:
        store: as given.
    """

    def __init__(self, store: KeyStore, metrics: MetricCells, *, on_unknown_key: Callable[[], None]) -> None:
        self.store = store
        self._metrics = metrics
        self._on_unknown_key = on_unknown_key
        self._keys = NO_KEYS
        self._bound = self._bind(NO_KEYS)

    def bind(self) -> BoundKeys:
        """Bind the current snapshot."""
        keys = self.store.keys
        if keys is not self._keys:
            self._keys = keys
            self._bound = self._bind(keys)
        return self._bound

    def _bind(self, keys: KeysInUse) -> BoundKeys:
        decrypt_token: BoundDecrypt = decrypt_without_keys if keys.snapshot is None else bind_decrypt(keys.snapshot)
        row, success_cell, count_failure = self._metrics.row, _SUCCESS_CELL, self._count_failure
        kernel = keys.kernel

        def decrypt_to_json(token: str, domain: str | None, now_ms: int) -> bytes:
            verdict = decrypt_token(token, domain, now_ms)
            reason = verdict[3]
            if reason is None:
                row[success_cell] += 1
                if kernel is not None and domain is not None:
                    kernel.note_success(token, domain, now_ms)
            else:
                count_failure(reason)
            return verdict_body(verdict)

        def count_successes(count: int) -> None:
            row[success_cell] += count

        return BoundKeys(decrypt_to_json, kernel, count_successes)

    def _count_failure(self, reason: FailureReason) -> None:
        self._metrics.count_failure(reason)
        if reason in _UNKNOWN_KEY_REASONS:
            self._on_unknown_key()
