"""What `POST /console/explain` answers: the story of a token, or of each eid of a bid request.

It is told in short steps with pauses, so that other threads can run. Nothing of the request is kept.
"""

import asyncio
from collections.abc import Sequence

import msgspec
import orjson

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.explain import Explanation, explain_in_steps, explain_token, to_json
from bidstream_svc.core.explain.explanation import BidRequestExplanation
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.programmes import Programme
from bidstream_svc.server.console_state import ConsoleSources


class _Question(msgspec.Struct):
    """The body: a token and what goes with it, or a bid request, as JSON or as text."""

    token: str | None = None
    domain: str | None = None
    scope: str | None = None
    bid_request: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_Question).decode
_decode_text = msgspec.json.Decoder(str).decode


async def explain(body: bytes, sources: ConsoleSources) -> bytes:
    """Return the explanation as JSON. Raw uids are masked in it.

    Raises:
        ValueError: the body is not such a question, or not a bid request. The message has nothing of the body.
    """
    question = _read(body)
    programmes = sources.health.stores.current.programmes
    explanation: Explanation | BidRequestExplanation
    if question.bid_request:
        explanation = await _explain_bid_request(question.bid_request, programmes, sources)
    else:
        scope = None if question.scope is None else IdentityScope[question.scope]
        explanation = explain_token(
            question.token, question.domain, programmes, scope, wall_clock_ms(), sources.find_optout
        )
    await asyncio.sleep(0)
    return orjson.dumps(to_json(explanation))


def _read(body: bytes) -> _Question:
    try:
        question = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # its message may quote the body
        question = _Question()
    if (question.token is None) == (not question.bid_request):
        raise ValueError("the body must be a JSON object with either `token` or `bid_request`")
    if question.scope is not None and question.scope not in IdentityScope.__members__:
        raise ValueError("`scope` must be UID2 or EUID")
    return question


async def _explain_bid_request(
    raw: msgspec.Raw, programmes: Sequence[Programme], sources: ConsoleSources
) -> BidRequestExplanation:
    text = bytes(raw)
    if text.startswith(b'"'):
        text = _decode_text(text).encode("utf-8", "surrogatepass")
    steps = explain_in_steps(text, programmes, sources.settings.eid_sources, wall_clock_ms(), sources.find_optout)
    try:
        while True:
            next(steps)
            await asyncio.sleep(0)
    except StopIteration as end:
        explanation: BidRequestExplanation = end.value
        return explanation
    except BidRequestError as error:
        raise ValueError(str(error)) from None
