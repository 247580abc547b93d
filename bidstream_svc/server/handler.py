"""The logic of a request, with no HTTP library in it: body -> (status code, body).

The aiohttp application and every faster lane call the same functions, so they cannot differ in what they answer.
"""

from collections.abc import Callable, Generator
from typing import Annotated, TypeAlias

import msgspec

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.decrypt import BoundDecrypt, bind_decrypt, decrypt_without_keys
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells, Route
from bidstream_svc.metrics.cells import DECRYPTIONS
from bidstream_svc.server.answers import Answer, batch_body, error_answer, verdict_body

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
_NOT_DECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)

# (body, now_ms) -> answer: `DecryptHandler.decrypt` for one snapshot.
BoundHandler: TypeAlias = Callable[[bytes, int], Answer]
# (decoded request, now_ms) -> body of the answer.
_Judge: TypeAlias = Callable[[_DecryptRequest, int], bytes]


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
        self._bound_keys: KeySnapshot | None
        self._judge: _Judge
        self._bound: BoundHandler
        self._bind_to(None)

    def now_ms(self) -> int:
        """The wall clock, Unix ms."""
        return self._now_ms()

    def decrypt(self, body: bytes, now_ms: int) -> Answer:
        """Answer `POST /decrypt`.

        Args:
            body: the request's.
            now_ms: the time to judge by.
        """
        return self.bind()(body, now_ms)

    def bind(self) -> BoundHandler:
        """`decrypt` for the keys that are in the store now: for whoever answers many requests at a time."""
        self._follow_store()
        return self._bound

    def decrypt_batch(self, body: bytes, now_ms: int) -> Generator[None, None, Answer]:
        """Answer `POST /decrypt/batch`; yields every 64 tokens, so that other requests get their turn.

        One snapshot and one time hold for the whole batch.
        """
        try:
            requests = _decode_batch(body).requests
        except _NOT_DECODABLE as error:
            return _bad_request(error)
        self._follow_store()
        judge = self._judge
        bodies: list[bytes] = []
        for start in range(0, len(requests), TOKENS_A_TURN):
            if start:
                yield
            turn = requests[start : start + TOKENS_A_TURN]
            bodies += [judge(request, now_ms) for request in turn]
        return 200, batch_body(bodies)

    def _follow_store(self) -> None:
        keys = self._store.snapshot
        if keys is not self._bound_keys:
            self._bind_to(keys)

    def _bind_to(self, keys: KeySnapshot | None) -> None:
        """Make the closures that answer requests, with everything they need as local names."""
        self._bound_keys = keys
        self._judge = self._bind_judge(decrypt_without_keys if keys is None else bind_decrypt(keys))
        self._bound = _bind_answer(self._judge)

    def _bind_judge(self, decrypt_token: BoundDecrypt) -> _Judge:
        row, success_cell, count_failure = self._metrics.row, _SUCCESS_CELL, self._count_failure

        def judge(request: _DecryptRequest, now_ms: int) -> bytes:
            verdict = decrypt_token(request.token, request.domain, now_ms)
            reason = verdict[3]
            if reason is None:
                row[success_cell] += 1
            else:
                count_failure(reason)
            return verdict_body(verdict)

        return judge

    def _count_failure(self, reason: FailureReason) -> None:
        self._metrics.count_failure(reason)
        if reason in _UNKNOWN_KEY_REASONS:
            self._on_unknown_key()


def _bind_answer(judge: _Judge) -> BoundHandler:
    # Not beside `judge` in one function: compiled, functions made side by side that know each other are a cycle, and
    # with it the keys of before would wait for the garbage collector.
    decode = _decode_request

    def answer(body: bytes, now_ms: int) -> Answer:
        try:
            request = decode(body)
        except _NOT_DECODABLE as error:
            return _bad_request(error)
        return 200, judge(request, now_ms)

    return answer


def _bad_request(error: Exception) -> Answer:
    """400; msgspec's messages name fields, types and positions, never values."""
    if isinstance(error, msgspec.ValidationError):
        return error_answer(400, "invalid_request", str(error))
    return error_answer(400, "invalid_json", "the body is not JSON")
