"""Handlers of `POST /openrtb` and `POST /openrtb/rewrite`; see `handlers`."""

from collections.abc import Callable, Generator, Sequence

from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.openrtb import Answered
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.metrics.cells import BidRequestResult
from bidstream_svc.server.answers import Answer, error_answer
from bidstream_svc.server.handlers import BoundKeys, LongAnswer


def answer_bid_request(keys: BoundKeys, body: bytes, now_ms: int) -> Answer | LongAnswer:
    """Answer `POST /openrtb`: the ids in a bid request."""
    return _answer(keys, keys.bid_requests.answer(body, now_ms), _answer_ids)


def answer_rewrite(keys: BoundKeys, body: bytes, now_ms: int) -> Answer | LongAnswer:
    """Answer `POST /openrtb/rewrite`: the bid request with raw uids in place of its tokens."""
    return _answer(keys, keys.bid_requests.rewrite(body, now_ms), _answer_rewritten)


def _answer(
    keys: BoundKeys,
    found: Answered | Generator[None, None, Answered],
    answer_with: Callable[[BoundKeys, Answered], Answer],
) -> Answer | LongAnswer:
    return _answer_in_steps(keys, found, answer_with) if isinstance(found, Generator) else answer_with(keys, found)


def _answer_in_steps(
    keys: BoundKeys, steps: Generator[None, None, Answered], answer_with: Callable[[BoundKeys, Answered], Answer]
) -> LongAnswer:
    try:
        found = yield from steps
    except BidRequestError as error:
        keys.count_bid_request(BidRequestResult.INVALID)
        return error_answer(400, "invalid_json", str(error))
    return answer_with(keys, found)


def _answer_ids(keys: BoundKeys, found: Answered) -> Answer:
    json, statuses = found
    keys.count_bid_request(_result_of(statuses))
    return 200, json


def _answer_rewritten(keys: BoundKeys, found: Answered) -> Answer:
    body, statuses = found
    keys.count_bid_request(_result_of(statuses))
    return (200, body, ",".join(statuses)) if statuses else (200, body)


def _result_of(statuses: Sequence[DecryptionStatus]) -> BidRequestResult:
    if not statuses:
        return BidRequestResult.NO_TOKEN
    return BidRequestResult.SUCCESS if DecryptionStatus.SUCCESS in statuses else BidRequestResult.FAILURE
