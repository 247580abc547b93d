"""The logic of a request, with no HTTP library in it: body -> (status code, body).

The aiohttp application and every faster lane call the same functions, so they cannot differ in what they answer.
"""

from collections.abc import Callable, Generator
from typing import Annotated

import msgspec

from bidstream_svc.decrypt import decrypt
from bidstream_svc.keys import KeySnapshot
from bidstream_svc.metrics import MetricCells, Route
from bidstream_svc.refresh import KeyStore, wall_clock_ms
from bidstream_svc.server.answers import Answer, batch_body, error_answer, verdict_body
from bidstream_svc.status import FailureReason

__all__ = ["BODY_LIMITS", "MAX_BATCH", "DecryptHandler"]

MAX_BATCH = 1_000
TOKENS_A_TURN = 64
BODY_LIMITS = {Route.DECRYPT: 16 * 1024, Route.BATCH: 4 * 1024 * 1024}

_UNKNOWN_KEY_REASONS = frozenset({FailureReason.MASTER_KEY_UNKNOWN, FailureReason.SITE_KEY_UNKNOWN})


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
        self._on_unknown_key = on_unknown_key
        self._now_ms = now_ms

    def decrypt(self, body: bytes) -> Answer:
        """Answer `POST /decrypt`."""
        try:
            request = _decode_request(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return _bad_request(error)
        return 200, self._verdict_body(request, self._store.snapshot, self._now_ms())

    def decrypt_batch(self, body: bytes) -> Generator[None, None, Answer]:
        """Answer `POST /decrypt/batch`; yields every 64 tokens, so that other requests get their turn.

        One snapshot and one time hold for the whole batch.
        """
        try:
            requests = _decode_batch(body).requests
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return _bad_request(error)
        keys, now_ms = self._store.snapshot, self._now_ms()
        bodies: list[bytes] = []
        for start in range(0, len(requests), TOKENS_A_TURN):
            if start:
                yield
            turn = requests[start : start + TOKENS_A_TURN]
            bodies += [self._verdict_body(request, keys, now_ms) for request in turn]
        return 200, batch_body(bodies)

    def _verdict_body(self, request: _DecryptRequest, keys: KeySnapshot | None, now_ms: int) -> bytes:
        verdict = decrypt(request.token, request.domain, keys, now_ms)
        reason = verdict[3]
        self._metrics.count_verdict(reason)
        if reason in _UNKNOWN_KEY_REASONS:
            self._on_unknown_key()
        return verdict_body(verdict)


def _bad_request(error: Exception) -> Answer:
    """400; msgspec's messages name fields, types and positions, never values."""
    if isinstance(error, msgspec.ValidationError):
        return error_answer(400, "invalid_request", str(error))
    return error_answer(400, "invalid_json", "the body is not JSON")
