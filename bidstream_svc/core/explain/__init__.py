"""Explains verdicts to people: each step on the way to one, what it found, and what to do.

Nothing here decides: the verdict is that of `bind_programmes`, and the steps are told around it. It is not part of the
hot path.
"""

from bidstream_svc.core.explain.bid_request_explanation import explain_bid_request, explain_in_steps
from bidstream_svc.core.explain.explanation import (
    BidRequestExplanation,
    EidExplanation,
    Explanation,
    Outcome,
    Step,
    shown_uid,
    to_json,
)
from bidstream_svc.core.explain.token_explanation import STEP_NAMES, STEP_OF, FindOptOut, explain_token

__all__ = [
    "STEP_NAMES",
    "STEP_OF",
    "BidRequestExplanation",
    "EidExplanation",
    "Explanation",
    "FindOptOut",
    "Outcome",
    "Step",
    "explain_bid_request",
    "explain_in_steps",
    "explain_token",
    "shown_uid",
    "to_json",
]
