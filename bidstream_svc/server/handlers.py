"""Request handlers: functions from the body of a request to an answer, independent of any HTTP library.

A handler that needs long returns a generator instead of an answer. The generator yields at points where other
connections may be served, and returns the answer. The fast path and aiohttp call the same handlers, so that their
answers are the same.
"""

from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias

import msgspec

from bidstream_svc.core.decrypt import BoundDecrypt, bind_decrypt, decrypt_without_keys
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import DECRYPTIONS
from bidstream_svc.server.answers import Answer, batch_body, error_answer, verdict_body
from bidstream_svc.server.batch_body import STEP_BYTES, Parts, TokenRequest, decode_batch, read_batch
from bidstream_svc.server.json_repair import repair

TOKENS_PER_ITERATION = 64
_SLOW_PER_ITERATION = 4  # with names that take up to 0.3 ms each to normalise

_UNKNOWN_KEY_REASONS = frozenset({FailureReason.MASTER_KEY_UNKNOWN, FailureReason.SITE_KEY_UNKNOWN})
_SUCCESS_CELL = DECRYPTIONS[DecryptionStatus.SUCCESS]

# (token, domain, now_ms) -> the verdict as JSON, after counting it.
DecryptToJson: TypeAlias = Callable[[str, str | None, int], bytes]
LongAnswer: TypeAlias = Generator[None, None, Answer]
# (decrypt_to_json, body, now_ms) -> answer
Handler: TypeAlias = Callable[[DecryptToJson, bytes, int], Answer | LongAnswer]


_decode_request = msgspec.json.Decoder(TokenRequest).decode
_NOT_DECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def answer_decrypt(decrypt_to_json: DecryptToJson, body: bytes, now_ms: int, *, is_repaired: bool = False) -> Answer:
    """Answer `POST /decrypt`; `now_ms` is the current time in Unix milliseconds."""
    try:
        request = _decode_request(body)
    except _NOT_DECODABLE as error:
        repaired = None if is_repaired else _repair_short(body, error)
        if repaired is None:
            return _bad_request(error)
        return answer_decrypt(decrypt_to_json, repaired, now_ms, is_repaired=True)
    return 200, decrypt_to_json(request.token, request.domain, now_ms)


def answer_batch(
    decrypt_to_json: DecryptToJson, body: bytes, now_ms: int, *, is_repaired: bool = False
) -> Answer | LongAnswer:
    """Answer `POST /decrypt/batch`; one snapshot and one time apply to all of its tokens."""
    if len(body) > STEP_BYTES:
        return _read_and_answer(decrypt_to_json, body, now_ms, is_repaired=is_repaired)
    try:
        requests = decode_batch(body)
    except _NOT_DECODABLE as error:
        repaired = None if is_repaired else _repair_short(body, error)
        if repaired is None:
            return _bad_request(error)
        return answer_batch(decrypt_to_json, repaired, now_ms, is_repaired=True)
    if len(requests) > TOKENS_PER_ITERATION or _has_slow_name(requests):
        return _answer_in_steps(decrypt_to_json, [requests], now_ms)
    return 200, batch_body([decrypt_to_json(request.token, request.domain, now_ms) for request in requests])


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
    return (yield from _answer_in_steps(decrypt_to_json, parts, now_ms))


def _answer_in_steps(decrypt_to_json: DecryptToJson, parts: Parts, now_ms: int) -> LongAnswer:
    bodies: list[bytes] = []
    for step in _split(parts):
        if bodies:
            yield
        bodies += [decrypt_to_json(request.token, request.domain, now_ms) for request in step]
    return 200, batch_body(bodies)


def _split(parts: Parts) -> Iterator[list[TokenRequest]]:
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
    """

    def __init__(self, store: KeyStore, metrics: MetricCells, *, on_unknown_key: Callable[[], None]) -> None:
        self._store = store
        self._metrics = metrics
        self._on_unknown_key = on_unknown_key
        self._keys: KeySnapshot | None = None
        self._decrypt_to_json = self._bind(decrypt_without_keys)

    def bind(self) -> DecryptToJson:
        """Return a function that decrypts with the current snapshot."""
        keys = self._store.snapshot
        if keys is not self._keys:
            self._keys = keys
            self._decrypt_to_json = self._bind(decrypt_without_keys if keys is None else bind_decrypt(keys))
        return self._decrypt_to_json

    def _bind(self, decrypt_token: BoundDecrypt) -> DecryptToJson:
        row, success_cell, count_failure = self._metrics.row, _SUCCESS_CELL, self._count_failure

        def decrypt_to_json(token: str, domain: str | None, now_ms: int) -> bytes:
            verdict = decrypt_token(token, domain, now_ms)
            reason = verdict[3]
            if reason is None:
                row[success_cell] += 1
            else:
                count_failure(reason)
            return verdict_body(verdict)

        return decrypt_to_json

    def _count_failure(self, reason: FailureReason) -> None:
        self._metrics.count_failure(reason)
        if reason in _UNKNOWN_KEY_REASONS:
            self._on_unknown_key()
