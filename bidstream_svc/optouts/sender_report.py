"""What a receiver of opt-outs got wrong, and what it costs the DSP, from its answers. Without I/O."""

from array import array
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple

from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.optouts.sender import ACCEPTED, RETRIED, OptOutEntry

_MAX_CLOSED_SHARE = 0.05  # a server may end a connection after so many requests

_STOPS = "no other entry follows, and all come again an hour later, to the same answer"


class Trouble(StrEnum):
    """Why there is no complete answer."""

    NOT_CONNECTED = "cannot connect"
    NOT_TRUSTED = "the TLS certificate is not trusted"
    NO_TLS = "the TLS handshake failed"
    TIMED_OUT = "no answer in time"
    ENDLESS = "the body of the answer does not end"
    CLOSED = "the connection is closed without an answer"
    CUT_SHORT = "the connection is closed within the answer"
    NOT_HTTP = "the answer is not HTTP/1.1"


class Reply(NamedTuple):
    """What came back for one request.

    Attributes:
        status: of a complete answer, or None.
        trouble: why it is not complete, or None.
        latency_s: from the start of the request to the end of the answer.
        is_closed: whether the receiver closed the connection, so that the next request needs another one.
    """

    status: int | None
    trouble: Trouble | None
    latency_s: float
    is_closed: bool = False


class Fault(StrEnum):
    """A kind of fault of a receiver. The names are part of the output for machines."""

    REDIRECT = "redirect"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CLIENT_ERROR = "client_error"
    OTHER_SUCCESS = "other_success"
    UPGRADED = "upgraded"
    OTHER_STATUS = "other_status"
    RETRIED = "retried"
    GAVE_UP = "gave_up"
    NO_CONNECTION = "no_connection"
    TLS = "tls"
    TIMED_OUT = "timed_out"
    ENDLESS_BODY = "endless_body"
    NO_ANSWER = "no_answer"
    NOT_HTTP = "not_http"
    CLOSES = "closes"
    SLOW = "slow"


_COST = {
    Fault.REDIRECT: f"redirects are not followed; {_STOPS}. Give the programme the final URL",
    Fault.UNAUTHORIZED: f"the whole feed is blocked: {_STOPS}. Compare the fixed headers agreed with the programme",
    Fault.NOT_FOUND: f"{_STOPS}. Ids that you do not know have to be kept, and answered 200; is the path right?",
    Fault.METHOD_NOT_ALLOWED: f"{_STOPS}. Take GET and POST",
    Fault.CLIENT_ERROR: f"a 4xx blocks the feed: {_STOPS}. Answer 200, and look at what you could not read later",
    Fault.OTHER_SUCCESS: f"only 200 and 204 are success: {_STOPS}",
    Fault.UPGRADED: (
        "an upgrade to HTTP/2 over plain TCP is obsolete, and this sender cannot go on. Ignore the offer, as RFC 9110 "
        "allows"
    ),
    Fault.OTHER_STATUS: f"neither success nor one of those that are tried again: {_STOPS}",
    Fault.RETRIED: "the entry is sent again after a pause, in which no other is sent",
    Fault.GAVE_UP: f"after the last retry, {_STOPS}",
    Fault.NO_CONNECTION: _STOPS,
    Fault.TLS: _STOPS,
    Fault.TIMED_OUT: f"the sender waits 30 s, and then {_STOPS}",
    Fault.ENDLESS_BODY: "the sender may wait for it without limit, and sends no other entry. Answer without a body",
    Fault.NO_ANSWER: f"{_STOPS}. On trouble, answer 503",
    Fault.NOT_HTTP: _STOPS,
    Fault.CLOSES: "each entry needs a new connection, and a TLS handshake with https. Keep connections open",
    Fault.SLOW: "entries go one after another, so the time of an answer limits the feed",
}
_OF_STATUS = {401: Fault.UNAUTHORIZED, 403: Fault.UNAUTHORIZED, 404: Fault.NOT_FOUND, 405: Fault.METHOD_NOT_ALLOWED}
_OF_CLASS = {2: Fault.OTHER_SUCCESS, 3: Fault.REDIRECT, 4: Fault.CLIENT_ERROR}
_OF_TROUBLE = {
    Trouble.NOT_CONNECTED: Fault.NO_CONNECTION,
    Trouble.NOT_TRUSTED: Fault.TLS,
    Trouble.NO_TLS: Fault.TLS,
    Trouble.TIMED_OUT: Fault.TIMED_OUT,
    Trouble.ENDLESS: Fault.ENDLESS_BODY,
    Trouble.CLOSED: Fault.NO_ANSWER,
    Trouble.CUT_SHORT: Fault.NO_ANSWER,
    Trouble.NOT_HTTP: Fault.NOT_HTTP,
}


class Finding(NamedTuple):
    """A fault, what was seen of it how often, where first, and what it costs."""

    fault: Fault
    seen: str
    times: int
    first: OptOutEntry | None
    cost: str

    def __str__(self) -> str:
        """One line, without a raw uid."""
        often = "once" if self.times == 1 else f"{self.times} times"
        place = f", first at entry {self.first.number}, of {len(self.first.raw_id)} bytes" if self.first else ""
        return f"{self.seen} ({often}{place}): {self.cost}"


class Percentiles(NamedTuple):
    """Of the time to an answer, in ms."""

    p50: float
    p99: float
    max: float


def fault_of(status: int | None, trouble: Trouble | None) -> Fault | None:
    """The fault in one answer, or None."""
    if trouble is not None:
        return _OF_TROUBLE[trouble]
    if status is None or status in ACCEPTED:
        return None
    if status in RETRIED:
        return Fault.RETRIED
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        return Fault.UPGRADED
    return _OF_STATUS.get(status) or _OF_CLASS.get(status // 100, Fault.OTHER_STATUS)


@dataclass(slots=True)
class _Sighting:
    count: int
    first: OptOutEntry


class SenderReport:
    """Counts answers, and tells what is wrong about them.

    Args:
        slow_s: answers are slow if one in a hundred takes longer.
    """

    def __init__(self, slow_s: float) -> None:
        self._slow_s = slow_s
        self._latencies_s = array("d")
        self._seen: dict[tuple[Fault, str], _Sighting] = {}
        self.counts: Counter[str] = Counter(dict.fromkeys(("requests", "accepted", "failed", "closed_connections"), 0))

    def note(self, entry: OptOutEntry, reply: Reply) -> None:
        """Count the reply to a request for an entry."""
        self.counts["requests"] += 1
        self.counts["closed_connections"] += reply.is_closed
        if reply.status is not None:
            self._latencies_s.append(reply.latency_s)
            self.counts["accepted"] += reply.status in ACCEPTED
        fault = fault_of(reply.status, reply.trouble)
        if fault is not None:
            self._note_fault(fault, reply.trouble or f"status {reply.status}", entry)

    def note_failed(self, entry: OptOutEntry, reply: Reply) -> None:
        """Count an entry that failed, after its last reply."""
        self.counts["failed"] += 1
        if reply.status in RETRIED:
            self._note_fault(Fault.GAVE_UP, f"status {reply.status} to the last retry", entry)

    @property
    def latencies_ms(self) -> Percentiles | None:
        """Of the complete answers; None if there are none."""
        ordered = sorted(self._latencies_s)
        if not ordered:
            return None
        last = len(ordered) - 1
        return Percentiles(*(round(ordered[round(last * share)] * MS_PER_S, 3) for share in (0.5, 0.99, 1.0)))

    def findings(self) -> list[Finding]:
        """The faults; empty if there is nothing to complain about."""
        found = [
            Finding(fault, seen, sighting.count, sighting.first, _COST[fault])
            for (fault, seen), sighting in self._seen.items()
        ]
        closed, answers = self.counts["closed_connections"], len(self._latencies_s)
        if answers and closed > answers * _MAX_CLOSED_SHARE:
            seen = f"the connection is closed after {closed} of {answers} answers"
            found.append(Finding(Fault.CLOSES, seen, closed, None, _COST[Fault.CLOSES]))
        latencies = self.latencies_ms
        if latencies is not None and latencies.p99 > self._slow_s * MS_PER_S:
            count = sum(latency_s > self._slow_s for latency_s in self._latencies_s)
            seen = f"answers take up to {latencies.max / MS_PER_S:.3g} s, p99 {latencies.p99 / MS_PER_S:.3g} s"
            found.append(Finding(Fault.SLOW, seen, count, None, _COST[Fault.SLOW]))
        return found

    def _note_fault(self, fault: Fault, seen: str, entry: OptOutEntry) -> None:
        sighting = self._seen.setdefault((fault, seen), _Sighting(0, entry))
        sighting.count += 1
