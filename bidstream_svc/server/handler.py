"""The logic of a request, with no HTTP library in it: body -> (status code, body).

The aiohttp application and every faster lane call the same functions, so they cannot differ in what they answer.
"""

from collections.abc import Callable, Generator
from typing import Annotated

import msgspec

from bidstream_svc.decrypt import BoundDecrypt, bind_decrypt, decrypt_without_keys
from bidstream_svc.keys import KeySnapshot
from bidstream_svc.metrics import MetricCells, Route
from bidstream_svc.metrics.cells import DECRYPTIONS
from bidstream_svc.refresh import KeyStore, wall_clock_ms
from bidstream_svc.server.answers import Answer, batch_body, error_answer, verdict_body
from bidstream_svc.status import DecryptionStatus, FailureReason

__all__ = ["BODY_LIMITS", "MAX_BATCH", "DecryptHandler"]

MAX_BATCH = 1_000
TOKENS_A_TURN = 64
BODY_LIMITS = {Route.DECRYPT: 16 * 1024, Route.BATCH: 4 * 1024 * 1024}

_UNKNOWN_KEY_REASONS = frozenset({FailureReason.MASTER_KEY_UNKNOWN, FailureReason.SITE_KEY_UNKNOWN})
_SUCCESS_CELL = DECRYPTIONS[DecryptionStatus.SUCCESS]


class _DecryptRequest(msgspec.Struct, gc=False):
    token: str
    domain: str | None = None


class _BatchRequest(msgspec.Struct, gc=False):
    requests: Annotated[list[_DecryptRequest], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


_decode_request = msgspec.json.Decoder(_DecryptRequest).decode
_decode_batch = msgspec.json.Decoder(_BatchRequest).decode


class DecryptHandler:
    """Answers the data plane's requests from the keys in a store.

    Args:
        store: where the keys are.
        metrics: counts verdicts.
        on_unknown_key: called for every token whose key is unknown; must be cheap.
        now_ms: the wall clock, Unix ms.
    """

    def __init__(
        self,
        store: KeyStore,
        metrics: MetricCells,
        *,
        on_unknown_key: Callable[[], None],
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._row = metrics.row
        self._bound_keys: KeySnapshot | None = None
        self._bound_decrypt: BoundDecrypt = decrypt_without_keys
        self._on_unknown_key = on_unknown_key
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """The wall clock, Unix ms."""
        return self._now_ms()

    def decrypt(self, body: bytes, now_ms: int) -> Answer:
        """Answer `POST /decrypt`.

        Args:
            body: the request's.
            now_ms: the time to judge by; whoever answers many at a time asks the clock once.
        """
        try:
            request = _decode_request(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return _bad_request(error)
        return 200, self._decrypt_one(request, self._bound(), now_ms)

    def decrypt_batch(self, body: bytes, now_ms: int) -> Generator[None, None, Answer]:
        """Answer `POST /decrypt/batch`; yields every 64 tokens, so that other requests get their turn.

        One snapshot and one time hold for the whole batch.
        """
        try:
            requests = _decode_batch(body).requests
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return _bad_request(error)
        decrypt_token = self._bound()
        bodies: list[bytes] = []
        for start in range(0, len(requests), TOKENS_A_TURN):
            if start:
                yield
            turn = requests[start : start + TOKENS_A_TURN]
            bodies += [self._decrypt_one(request, decrypt_token, now_ms) for request in turn]
        return 200, batch_body(bodies)

    def _bound(self) -> BoundDecrypt:
        """`decrypt` for the keys that are in the store now."""
        keys = self._store.snapshot
        if keys is not self._bound_keys and keys is not None:
            self._bound_decrypt = bind_decrypt(keys)
            self._bound_keys = keys
        return self._bound_decrypt

    def _decrypt_one(self, request: _DecryptRequest, decrypt_token: BoundDecrypt, now_ms: int) -> bytes:
        verdict = decrypt_token(request.token, request.domain, now_ms)
        reason = verdict[3]
        if reason is None:
            self._row[_SUCCESS_CELL] += 1
        else:
            self._metrics.count_failure(reason)
            if reason in _UNKNOWN_KEY_REASONS:
                self._on_unknown_key()
        return verdict_body(verdict)


def _bad_request(error: Exception) -> Answer:
    """400; msgspec's messages name fields, types and positions, never values."""
    if isinstance(error, msgspec.ValidationError):
        return error_answer(400, "invalid_request", str(error))
    return error_answer(400, "invalid_json", "the body is not JSON")
