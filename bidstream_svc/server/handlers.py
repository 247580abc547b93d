"""Request handlers: functions from the body of a request to an answer, independent of any HTTP library.

A handler that needs long returns a generator instead of an answer. The generator yields at points where other
connections may be served, and returns the answer. The fast path and aiohttp call the same handlers, so that their
answers are the same.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Generator
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from bidstream_svc.core.decrypt import BoundDecrypt, bind_decrypt, decrypt_without_keys
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import DECRYPTIONS
from bidstream_svc.server.answers import Answer, batch_body, error_answer, verdict_body

MAX_BATCH_TOKENS = 1_000
TOKENS_PER_ITERATION = 64

_UNKNOWN_KEY_REASONS = frozenset({FailureReason.MASTER_KEY_UNKNOWN, FailureReason.SITE_KEY_UNKNOWN})
_SUCCESS_CELL = DECRYPTIONS[DecryptionStatus.SUCCESS]

# (token, domain, now_ms) -> the verdict as JSON, after counting it.
DecryptToJson: TypeAlias = Callable[[str, str | None, int], bytes]
LongAnswer: TypeAlias = Generator[None, None, Answer]
# (decrypt_to_json, body, now_ms) -> answer
Handler: TypeAlias = Callable[[DecryptToJson, bytes, int], Answer | LongAnswer]


class _DecryptRequest(msgspec.Struct, gc=False):
    token: str
    domain: str | None = None


class _BatchRequest(msgspec.Struct, gc=False):
    requests: Annotated[list[_DecryptRequest], msgspec.Meta(min_length=1, max_length=MAX_BATCH_TOKENS)]


_decode_request = msgspec.json.Decoder(_DecryptRequest).decode
_decode_batch = msgspec.json.Decoder(_BatchRequest).decode
_NOT_DECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_Decoded = TypeVar("_Decoded")

_BACKSLASH, _ESCAPED_BACKSLASH = b"\\\\", b"\\u005c"
# A surrogate that is not part of a pair, in JSON where no other escape ends with a backslash. It begins with a literal,
# which `re` finds fastest.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_REPLACEMENT = rb"\\ufffd"
# Limits the time that a body may take. It allows one in each token and domain of a batch.
_MAX_REPLACED = 2 * MAX_BATCH_TOKENS
_MAX_ESCAPES = 4 * _MAX_REPLACED


def answer_decrypt(decrypt_to_json: DecryptToJson, body: bytes, now_ms: int) -> Answer:
    """Answer `POST /decrypt`; `now_ms` is the current time in Unix milliseconds."""
    try:
        request = _decode_request(body)
    except _NOT_DECODABLE as error:
        try:
            request = _decode_mended(_decode_request, body, error)
        except _NOT_DECODABLE as still:
            return _bad_request(still)
    return 200, decrypt_to_json(request.token, request.domain, now_ms)


def answer_batch(decrypt_to_json: DecryptToJson, body: bytes, now_ms: int) -> Answer | LongAnswer:
    """Answer `POST /decrypt/batch`; one snapshot and one time apply to all of its tokens."""
    try:
        requests = _decode_batch(body).requests
    except _NOT_DECODABLE as error:
        try:
            requests = _decode_mended(_decode_batch, body, error).requests
        except _NOT_DECODABLE as still:
            return _bad_request(still)
    if len(requests) > TOKENS_PER_ITERATION:
        return _answer_long_batch(decrypt_to_json, requests, now_ms)
    return 200, batch_body([decrypt_to_json(request.token, request.domain, now_ms) for request in requests])


def _answer_long_batch(decrypt_to_json: DecryptToJson, requests: list[_DecryptRequest], now_ms: int) -> LongAnswer:
    bodies: list[bytes] = []
    for start in range(0, len(requests), TOKENS_PER_ITERATION):
        if start:
            yield
        part = requests[start : start + TOKENS_PER_ITERATION]
        bodies += [decrypt_to_json(request.token, request.domain, now_ms) for request in part]
    return 200, batch_body(bodies)


def _decode_mended(decode: Callable[[bytes], _Decoded], body: bytes, error: Exception) -> _Decoded:
    """Decode a body for which `decode` raised `error`, without a byte order mark and lone surrogates.

    A lone surrogate is replaced by U+FFFD, which occurs in no token and no domain: so it affects only the token or the
    domain that it is in.

    Raises:
        Exception: `error`, if the body has neither, or what `decode` raises.
    """
    if isinstance(error, msgspec.ValidationError):
        raise error
    mended = body.removeprefix(BOM_UTF8)
    if b"\\u" in mended and mended.count(b"\\") <= _MAX_ESCAPES:
        escaped = mended.replace(_BACKSLASH, _ESCAPED_BACKSLASH)
        mended = _LONE_SURROGATE.sub(_REPLACEMENT, escaped, _MAX_REPLACED)
    if mended == body:
        raise error
    return decode(mended)


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
