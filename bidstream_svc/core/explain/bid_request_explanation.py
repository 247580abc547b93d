"""Explains a bid request: each entry of our sources, and why the other eids are not ours.

Which entries are ours, and what is of them, `BidScanner` says, as it does for `POST /openrtb`. What it passes over is
read here a second time.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from bidstream_svc.core.domains import NameCandidates
from bidstream_svc.core.explain.explanation import BidRequestExplanation, EidExplanation, Explanation
from bidstream_svc.core.explain.plain_words import printable
from bidstream_svc.core.explain.source_check import why_unknown
from bidstream_svc.core.explain.token_explanation import FindOptOut, explain_with_names
from bidstream_svc.core.explain.token_shape import describe_slip
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import MAX_ENTRIES, Sources
from bidstream_svc.core.openrtb.bid_names import read_names
from bidstream_svc.core.openrtb.bid_reader import PATH_IN_3_0, BidRequest, Entry, programme_of
from bidstream_svc.core.openrtb.bid_scanner import BidScanner
from bidstream_svc.core.openrtb.json_check import finish, replace_lone_surrogates, without_bom
from bidstream_svc.core.programmes import Programme

_MAX_FOREIGN_EIDS = 400
_EIDS: tuple[tuple[str, ...], ...] = (("user", "eids"), ("user", "ext", "eids"))
# Where eids stand at times, and are not read.
_MISPLACED: tuple[tuple[str, ...], ...] = (
    ("eids",),
    ("ext", "eids"),
    ("device", "eids"),
    ("device", "ext", "eids"),
)
_Members: TypeAlias = dict[str, msgspec.Raw]
_decode_text = msgspec.json.Decoder(str).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_members = msgspec.json.Decoder(_Members).decode


@dataclass(frozen=True, slots=True, repr=False)
class _Tokens:
    """Explains the tokens of one bid request, each once."""

    explain: Callable[[str, IdentityScope], Explanation]
    entries: dict[str, Entry]
    done: dict[tuple[str, IdentityScope], Explanation]

    def explain_entry(self, entry: Entry) -> EidExplanation:
        key = entry.token, entry.scope
        if key not in self.done:
            self.done[key] = self.explain(*key)
        return EidExplanation(
            path=entry.path,
            source=printable(entry.source),
            scope=entry.scope,
            explanation=self.done[key],
            spelling=describe_slip(entry.token),
        )


def explain_bid_request(
    body: bytes,
    programmes: Sequence[Programme],
    sources: Sources,
    now_ms: int,
    find_optout: FindOptOut | None = None,
) -> BidRequestExplanation:
    """Explain what becomes of each eid of a bid request.

    Args:
        body: the bid request, JSON of version 2.5, 2.6 or 3.0.
        programmes: as of `explain_token`. What is of a programme that is not among them is NOT_INITIALIZED.
        sources: the programme of each `source` of an eid, in lower case.
        now_ms: the time as of which it is judged, Unix ms.
        find_optout: as of `explain_token`.

    Raises:
        BidRequestError: the body is not a JSON object in UTF-8, or is nested more than 64 levels deep.
    """
    return finish(explain_in_steps(body, programmes, sources, now_ms, find_optout))


def explain_in_steps(
    body: bytes,
    programmes: Sequence[Programme],
    sources: Sources,
    now_ms: int,
    find_optout: FindOptOut | None = None,
) -> Generator[None, None, BidRequestExplanation]:
    """`explain_bid_request` as a generator, which yields after each eid."""
    text = without_bom(body)
    request = yield from BidScanner(text, sources, MAX_ENTRIES).read()
    text = (yield from replace_lone_surrogates(text)).strip()
    names = list(read_names(request.site, request.app))
    of_scope = {each.scope if each.keys is None else each.keys.scope: each for each in programmes}

    def explain(token: str, scope: IdentityScope) -> Explanation:
        # As `BidRequestDecryptor` does: the source alone chooses whose keys judge.
        programme = of_scope.get(scope) or Programme(scope, None)
        candidates = NameCandidates(lambda: names)
        return explain_with_names(
            token, candidates, [programme], scope, now_ms, find_optout, names=names, is_scope_of_source=True
        )

    tokens = _Tokens(explain, {entry.path: entry for entry in request.entries}, {})
    eids: list[EidExplanation] = []
    omitted = foreign = 0
    for eid in _explain_all(text, sources, tokens):
        foreign += eid.explanation is None
        if eid.explanation is None and foreign > _MAX_FOREIGN_EIDS:
            omitted += 1
        else:
            eids.append(eid)
        yield
    shown_names = [(field, printable(name)) for field, name in names if name]
    return BidRequestExplanation(id=_id_of(request), names=shown_names, eids=eids, omitted=omitted)


def _explain_all(text: bytes, sources: Sources, tokens: _Tokens) -> Iterator[EidExplanation]:
    wrapped = _member(text, "openrtb")
    is_3_0 = wrapped.startswith(b"{")
    context = _members(_member(wrapped, "request", "context") if is_3_0 else text)
    prefix = PATH_IN_3_0 if is_3_0 else ""
    for place in _EIDS:
        for path, eid in _elements(context, prefix, place):
            yield from _explain_eid(path, eid, sources, tokens)
    for place in _MISPLACED:
        for path, eid in _elements(context, prefix, place):
            yield from _explain_misplaced(path, eid, ".".join(place), sources)


def _explain_eid(path: str, eid: bytes, sources: Sources, tokens: _Tokens) -> Iterator[EidExplanation]:
    if not eid.startswith(b"{"):
        yield EidExplanation(path=path, source="", why_not_ours="it is not an object")
        return
    raw_source = _member(eid, "source")
    source = _text(raw_source)
    if source is None:
        why = "its source is not a string" if raw_source else "it has no source"
        yield EidExplanation(path=path, source="", why_not_ours=why)
    elif (scope := programme_of(source, sources)) is None:
        why = why_unknown(source, sources)
        yield EidExplanation(path=path, source=printable(source), why_not_ours=why)
    else:
        yield from _explain_uids(path, source, scope, _member(eid, "uids"), tokens)


def _explain_uids(
    path: str, source: str, scope: IdentityScope, uids: bytes, tokens: _Tokens
) -> Iterator[EidExplanation]:
    def say(place: str, why: str) -> EidExplanation:
        return EidExplanation(path=place, source=printable(source), scope=scope, why_not_ours=why)

    elements = _list(uids)
    if not elements:
        yield say(path, "it has no uids" if not uids or elements is not None else "its uids are not a list")
    for number, raw in enumerate(elements or ()):
        place, uid = f"{path}/uids/{number}", bytes(raw)
        if (entry := tokens.entries.get(place)) is not None:
            yield tokens.explain_entry(entry)
        elif not uid.startswith(b"{"):
            yield say(place, "it is not an object")
        elif not (token := _member(uid, "id")):
            yield say(place, "it has no id")
        elif not token.startswith(b'"'):
            yield say(place, "its id is not a string")
        else:
            yield say(place, f"it is not among the first {MAX_ENTRIES} ids of our sources")


def _explain_misplaced(path: str, eid: bytes, place: str, sources: Sources) -> Iterator[EidExplanation]:
    source = _text(_member(eid, "source"))
    scope = None if source is None else programme_of(source, sources)
    if source is not None and scope is not None:
        why = f"it is in {place}, which is not read: user.eids and user.ext.eids are"
        yield EidExplanation(path=path, source=printable(source), scope=scope, why_not_ours=why)


def _elements(context: _Members, prefix: str, place: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (JSON Pointer, JSON) of the elements of a list; none if there is no list in that place."""
    path = "/".join((prefix, *place))
    first = bytes(context.get(place[0], b""))
    for index, element in enumerate(_list(_member(first, *place[1:])) or ()):
        yield f"{path}/{index}", bytes(element)


def _member(raw: bytes, *names: str) -> bytes:
    """Return the JSON of a member of a member; empty if there is none. Of several with one name, the last counts."""
    for name in names:
        raw = bytes(_members(raw).get(name, b""))
    return raw


def _members(raw: bytes) -> _Members:
    return _decode_members(raw) if raw.startswith(b"{") else {}


def _list(raw: bytes) -> list[msgspec.Raw] | None:
    return _decode_list(raw) if raw.startswith(b"[") else None


def _text(raw: bytes) -> str | None:
    return _decode_text(raw) if raw.startswith(b'"') else None


def _id_of(request: BidRequest) -> str | None:
    text = _text(finish(replace_lone_surrogates(request.raw_id)))
    return None if text is None else printable(text)
