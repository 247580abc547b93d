"""What an explanation consists of, and its JSON.

No repr and no text here contains a token or a raw uid. Names of sites are in it: they are what is asked about. What
came from outside is escaped, so that a terminal can show it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import DecryptionStatus, FailureReason

Fact: TypeAlias = str | int | bool | None
_SHOWN_OF_RAW_UID = 4


class Outcome(StrEnum):
    """The outcome of a step. A note decides nothing."""

    PASSED = "passed"
    FAILED = "failed"
    NOTE = "note"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True, slots=True)
class Step:
    """A check of the verdict, or something that was read on the way.

    Attributes:
        name: one of STEP_NAMES.
        text: one plain sentence without a full stop; empty if the step was not reached.
        facts: what the sentence says, for programs. Names end in their unit: `expires_ms`.
    """

    name: str
    outcome: Outcome
    text: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a token gets its verdict.

    Attributes:
        status, reason, scope: as of `bind_programmes`; `reason` is None on SUCCESS.
        steps: one for each of STEP_NAMES, in order.
        advice: what to do about it, in sentences; empty if there is nothing to do.
        runbook: where more about it is: a document of this project and an anchor in it; empty on SUCCESS.
        raw_uid, established_ms: on SUCCESS, else None.
    """

    status: DecryptionStatus
    reason: FailureReason | None
    scope: IdentityScope | None
    steps: Sequence[Step]
    advice: str
    runbook: str
    raw_uid: str | None = field(default=None, repr=False)
    established_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EidExplanation:
    """An entry of `uids`, or an eid that has none or is not ours.

    Attributes:
        path: JSON Pointer to it.
        source: of its eid; empty if that has none.
        scope: the programme of that source; None if it is not one of ours.
        explanation: of the token; None if there is none.
        why_not_ours: why there is none, in a sentence; None if there is one.
        spelling: what is wrong with how the token is written; None if nothing is.
    """

    path: str
    source: str
    scope: IdentityScope | None = None
    explanation: Explanation | None = None
    why_not_ours: str | None = None
    spelling: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BidRequestExplanation:
    """What became of each eid of a bid request.

    Attributes:
        id: of the bid request; None if it is not a string.
        names: (field, name) of its site or app, in the order in which they are tried.
        eids: in document order; of those that are not ours, the first few hundred.
        omitted: how many others are not ours.
    """

    id: str | None
    names: Sequence[tuple[str, str]]
    eids: Sequence[EidExplanation]
    omitted: int = 0


def to_json(explanation: Explanation | BidRequestExplanation, *, reveal: bool = False) -> dict[str, Any]:
    """Return an explanation as JSON has it. Only the first characters of raw uids are in it, unless `reveal`."""
    if isinstance(explanation, Explanation):
        return _of_token(explanation, reveal=reveal)
    return {
        "id": explanation.id,
        "names": [{"field": name_field, "name": name} for name_field, name in explanation.names],
        "eids": [
            {
                "path": eid.path,
                "source": eid.source,
                "scope": None if eid.scope is None else eid.scope.name,
                "explanation": None if eid.explanation is None else _of_token(eid.explanation, reveal=reveal),
                "why_not_ours": eid.why_not_ours,
                "spelling": eid.spelling,
            }
            for eid in explanation.eids
        ],
        "omitted": explanation.omitted,
    }


def shown_uid(raw_uid: str, *, reveal: bool) -> str:
    """Return a raw uid, or enough of it to recognise it."""
    return raw_uid if reveal else raw_uid[:_SHOWN_OF_RAW_UID] + "…"


def _of_token(explanation: Explanation, *, reveal: bool) -> dict[str, Any]:
    raw_uid = explanation.raw_uid
    return {
        "status": str(explanation.status),
        "reason": None if explanation.reason is None else str(explanation.reason),
        "scope": None if explanation.scope is None else explanation.scope.name,
        "uid": None if raw_uid is None else shown_uid(raw_uid, reveal=reveal),
        "established": explanation.established_ms,
        "steps": [
            {"name": step.name, "outcome": str(step.outcome), "text": step.text, "facts": dict(step.facts)}
            for step in explanation.steps
        ],
        "advice": explanation.advice,
        "runbook": explanation.runbook,
    }
