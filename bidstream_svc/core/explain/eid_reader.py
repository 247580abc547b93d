"""Reads all eids of a bid request, those that `BidScanner` passes over, too."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from bidstream_svc.core.explain.explanation import EidExplanation, Explanation
from bidstream_svc.core.explain.plain_words import printable
from bidstream_svc.core.explain.source_check import why_unknown
from bidstream_svc.core.explain.token_shape import describe_slip
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import MAX_ENTRIES, Sources
from bidstream_svc.core.openrtb.bid_reader import PATH_IN_3_0, Entry, programme_of

_MAX_FOREIGN_EIDS = 400
_Place: TypeAlias = tuple[str, ...]
_EIDS: tuple[_Place, ...] = (("user", "eids"), ("user", "ext", "eids"))
# Where eids stand at times, and are not read.
_MISPLACED: tuple[_Place, ...] = (("eids",), ("ext", "eids"), ("device", "eids"), ("device", "ext", "eids"))
_Members: TypeAlias = dict[str, msgspec.Raw]
_decode_text = msgspec.json.Decoder(str).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_members = msgspec.json.Decoder(_Members).decode


class EidReader:
    """Explains the eids of one bid request.

    Args:
        explain: explains a token under a source of a programme. It is called once for each.
        entries: those that are answered, by their path.
        sources: the programme of each `source` of an eid, in lower case.
    """

    def __init__(
        self, explain: Callable[[str, IdentityScope], Explanation], entries: Mapping[str, Entry], sources: Sources
    ) -> None:
        self._explain = explain
        self._entries = entries
        self._sources = sources
        self._explained: dict[tuple[str, IdentityScope], Explanation] = {}
        self._foreign = 0

    def read(self, text: bytes) -> Iterator[EidExplanation | None]:
        """Yield each eid in document order, or each of its uids; None for one of too many that are not ours.

        Args:
            text: the bid request, a JSON object without white space around it and without lone surrogates.
        """
        wrapped = member(text, "openrtb")
        is_3_0 = wrapped.startswith(b"{")
        context = _members(member(wrapped, "request", "context") if is_3_0 else text)
        prefix = PATH_IN_3_0 if is_3_0 else ""
        for place in _EIDS:
            for path, eid in _elements(context, prefix, place):
                yield from self._read_eid(path, eid)
        for place in _MISPLACED:
            for path, eid in _elements(context, prefix, place):
                yield from self._read_misplaced(path, eid, ".".join(place))

    def _read_eid(self, path: str, eid: bytes) -> Iterator[EidExplanation | None]:
        if not eid.startswith(b"{"):
            yield self._why(path, "", "it is not an object")
            return
        raw_source = member(eid, "source")
        source = text_or_none(raw_source)
        if source is None:
            yield self._why(path, "", "its source is not a string" if raw_source else "it has no source")
        elif (scope := programme_of(source, self._sources)) is None:
            yield self._why(path, source, lambda: why_unknown(source, self._sources))
        else:
            yield from self._read_uids(path, source, scope, member(eid, "uids"))

    def _read_uids(self, path: str, source: str, scope: IdentityScope, uids: bytes) -> Iterator[EidExplanation | None]:
        elements = _list(uids)
        if not elements:
            why = "it has no uids" if not uids or elements is not None else "its uids are not a list"
            yield self._why(path, source, why, scope)
        for number, raw in enumerate(elements or ()):
            place, uid = f"{path}/uids/{number}", bytes(raw)
            if (entry := self._entries.get(place)) is not None:
                yield self._explain_entry(entry)
            else:
                yield self._why(place, source, _why_no_token(uid), scope)

    def _read_misplaced(self, path: str, eid: bytes, place: str) -> Iterator[EidExplanation | None]:
        source = text_or_none(member(eid, "source"))
        scope = None if source is None else programme_of(source, self._sources)
        if source is not None and scope is not None:
            yield self._why(
                path, source, f"it is in {place}, which is not read: user.eids and user.ext.eids are", scope
            )

    def _explain_entry(self, entry: Entry) -> EidExplanation:
        key = entry.token, entry.scope
        if key not in self._explained:
            self._explained[key] = self._explain(*key)
        return EidExplanation(
            path=entry.path,
            source=printable(entry.source),
            scope=entry.scope,
            explanation=self._explained[key],
            spelling=describe_slip(entry.token),
        )

    def _why(
        self, path: str, source: str, why: str | Callable[[], str], scope: IdentityScope | None = None
    ) -> EidExplanation | None:
        self._foreign += 1
        if self._foreign > _MAX_FOREIGN_EIDS:
            return None
        words = why if isinstance(why, str) else why()
        return EidExplanation(path=path, source=printable(source), scope=scope, why_not_ours=words)


def member(raw: bytes, *names: str) -> bytes:
    """Return the JSON of a member of a member; empty if there is none. Of several with one name, the last counts."""
    for name in names:
        raw = bytes(_members(raw).get(name, b""))
    return raw


def text_or_none(raw: bytes) -> str | None:
    """Return the string in JSON; None for anything else."""
    return _decode_text(raw) if raw.startswith(b'"') else None


def _why_no_token(uid: bytes) -> str:
    if not uid.startswith(b"{"):
        return "it is not an object"
    token = member(uid, "id")
    if not token:
        return "it has no id"
    if not token.startswith(b'"'):
        return "its id is not a string"
    return f"it is not among the first {MAX_ENTRIES} ids of our sources"


def _elements(context: _Members, prefix: str, place: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (JSON Pointer, JSON) of the elements of a list; none if there is no list in that place."""
    path = "/".join((prefix, *place))
    first = bytes(context.get(place[0], b""))
    for index, element in enumerate(_list(member(first, *place[1:])) or ()):
        yield f"{path}/{index}", bytes(element)


def _members(raw: bytes) -> _Members:
    return _decode_members(raw) if raw.startswith(b"{") else {}


def _list(raw: bytes) -> list[msgspec.Raw] | None:
    return _decode_list(raw) if raw.startswith(b"[") else None
