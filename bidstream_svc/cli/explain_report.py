"""Explanations as text for a terminal."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import click

from bidstream_svc.core.explain import (
    BidRequestExplanation,
    EidExplanation,
    Explanation,
    Outcome,
    Step,
    shown_uid,
)
from bidstream_svc.core.explain.plain_words import moment, plural, quoted, relative

_LABEL_WIDTH = 13
_MARKS = {Outcome.PASSED: ("\u2713", "+"), Outcome.FAILED: ("\u2717", "x"), Outcome.NOTE: ("\u00b7", "-")}
_COLOURS = {Outcome.PASSED: "green", Outcome.FAILED: "red"}
_LABELS = {"optout": "opt-out"}


@dataclass(frozen=True, slots=True)
class Look:
    """How text is printed.

    Attributes:
        width: columns.
        is_coloured: whether escape sequences for colours are understood.
        is_unicode: whether all characters can be shown.
    """

    width: int
    is_coloured: bool
    is_unicode: bool

    def style(self, text: str, colour: str | None = None, *, bold: bool = False) -> str:
        """Return text in a colour, where there are colours."""
        return click.style(text, fg=colour, bold=bold or None) if self.is_coloured else text

    def mark(self, outcome: Outcome) -> str:
        """Return the mark of an outcome, one column wide."""
        return self.style(_MARKS[outcome][not self.is_unicode], _COLOURS.get(outcome))

    def wrap(self, text: str, indent: int = 0) -> list[str]:
        """Split text into lines that fit behind an indentation, which they do not have yet."""
        if not self.is_unicode:
            text = text.replace("\u2026", "...").encode("ascii", "backslashreplace").decode()
        return textwrap.wrap(text, self.width - indent, break_on_hyphens=False) or [""]

    def labelled(self, label: str, text: str, mark: str = " ") -> list[str]:
        """Return text behind a mark and a label."""
        indent = _LABEL_WIDTH + 4
        first, *others = self.wrap(text, indent)
        return [f"  {mark} {label:{_LABEL_WIDTH}}{first}", *(" " * indent + line for line in others)]

    def indented(self, text: str) -> list[str]:
        """Return text, indented by two columns."""
        return [f"  {line}" for line in self.wrap(text, 2)]


def report_token(explanation: Explanation, now_ms: int, look: Look, *, reveal: bool) -> list[str]:
    """Return the lines about a token."""
    scope = "" if explanation.scope is None else f", {explanation.scope.name}"
    return [
        *_verdict(explanation, f"{scope}, as of {moment(now_ms)}", look),
        "",
        *_steps(explanation.steps, look),
        "",
        *_end(explanation, now_ms, look, reveal=reveal),
    ]


def report_bid_request(explanation: BidRequestExplanation, now_ms: int, look: Look, *, reveal: bool) -> list[str]:
    """Return the lines about a bid request: tokens that failed at length, all others in a line or two."""
    tokens = [eid.explanation for eid in explanation.eids if eid.explanation is not None]
    good = sum(token.reason is None for token in tokens)
    of_request = "Bid request" if explanation.id is None else f"Bid request {quoted(explanation.id)}"
    lines = look.wrap(f"{of_request}, as of {moment(now_ms)}: {plural(len(tokens), 'token')}, {good} decrypted")
    names = ", ".join(f"{quoted(name)} ({field})" for field, name in explanation.names)
    lines += look.indented(f"names: {names or 'none in site or app'}")
    places: dict[int, str] = {}  # of what has been explained: a token may be in user.eids and in user.ext.eids
    for eid in explanation.eids:
        lines += ["", *_eid(eid, now_ms, look, places, reveal=reveal)]
    if not explanation.eids:
        lines += ["", "It has no eids: user.eids and user.ext.eids are missing or empty."]
    if explanation.omitted:
        lines += ["", f"{plural(explanation.omitted, 'other eid')} that are not ours"]
    return lines


def _eid(eid: EidExplanation, now_ms: int, look: Look, places: dict[int, str], *, reveal: bool) -> list[str]:
    head = look.style(eid.path, bold=True)
    explanation = eid.explanation
    if explanation is None:
        return [head, *look.indented(f"not read: {eid.why_not_ours}")]
    if id(explanation) in places:
        return [head, *look.indented(f"the same token as in {places[id(explanation)]}")]
    places[id(explanation)] = eid.path
    verdict = [f"  {line}" for line in _verdict(explanation, f", {quoted(eid.source)}", look)]
    end = [f"  {line}" for line in _end(explanation, now_ms, look, reveal=reveal)]
    if explanation.reason is None:
        return [head, *verdict, *end]
    return [head, *verdict, *_steps(explanation.steps, look), *end]


def _verdict(explanation: Explanation, rest: str, look: Look) -> list[str]:
    """Status and reason, and what follows them."""
    reason = "" if explanation.reason is None else f" ({explanation.reason})"
    first, *others = look.wrap(f"{explanation.status}{reason}{rest}", 2)
    status = str(explanation.status)
    colour = "green" if explanation.reason is None else "red"
    return [look.style(status, colour, bold=True) + first.removeprefix(status), *others]


def _steps(steps: Sequence[Step], look: Look) -> list[str]:
    lines: list[str] = []
    not_reached: list[str] = []
    for step in steps:
        label = _LABELS.get(step.name, step.name.replace("_", " "))
        if step.outcome is Outcome.NOT_REACHED:
            not_reached.append(label)
        else:
            lines += look.labelled(label, step.text, look.mark(step.outcome))
    return lines + (look.labelled("not reached", ", ".join(not_reached)) if not_reached else [])


def _end(explanation: Explanation, now_ms: int, look: Look, *, reveal: bool) -> list[str]:
    """The raw uid, or what to do."""
    if explanation.raw_uid is None or explanation.established_ms is None:
        return [*look.wrap(f"What to do: {explanation.advice}", 2), f"More: {explanation.runbook}"]
    uid = shown_uid(explanation.raw_uid, reveal=reveal)
    hint = "" if reveal else " (--reveal shows all of it)"
    return look.wrap(f"uid {uid}{hint}, established {relative(explanation.established_ms, now_ms)}", 2)
