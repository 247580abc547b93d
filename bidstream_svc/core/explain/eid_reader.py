"""Reads all eids of a bid request, those that `BidScanner` passes over, too."""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TypeAlias

from bidstream_svc.core.explain.explanation import EidExplanation, Explanation
from bidstream_svc.core.explain.plain_words import printable
from bidstream_svc.core.explain.source_check import why_unknown
from bidstream_svc.core.explain.token_shape import describe_slip
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import MAX_ENTRIES, Sources
from bidstream_svc.core.openrtb.bid_reader import PATH_IN_3_0, Entry, programme_of
from bidstream_svc.core.openrtb.json_spans import JsonSpans, Span

_MAX_FOREIGN_EIDS = 400
_Place: TypeAlias = tuple[bytes, ...]
_EIDS: tuple[_Place, ...] = ((b"user", b"eids"), (b"user", b"ext", b"eids"))
# Where eids stand at times, and are not read.
_MISPLACED: tuple[_Place, ...] = (
    (b"eids",),
    (b"ext", b"eids"),
    (b"device", b"eids"),
    (b"device", b"ext", b"eids"),
)
_Steps: TypeAlias = Generator[None, None, None]


class EidReader:
    """Explains the eids of one bid request.

    Args:
        text: the bid request, a JSON object without lone surrogates.
        explain: explains a token under a source of a programme. It is called once for each.
        entries: those that are answered, by their path.
        sources: the programme of each `source` of an eid, in lower case.

    Attributes:
        eids: each eid in document order, or each of its uids; of those that are not ours, the first few hundred.
        omitted: how many others are not ours.
    """

    def __init__(
        self,
        text: bytes,
        explain: Callable[[str, IdentityScope], Explanation],
        entries: Mapping[str, Entry],
        sources: Sources,
    ) -> None:
        self.eids: list[EidExplanation] = []
        self.omitted = 0
        self._json = JsonSpans(text)
        self._explain = explain
        self._entries = entries
        self._sources = sources
        self._explained: dict[tuple[str, IdentityScope], Explanation] = {}
        self._foreign = 0  # eids that were noted

    def read(self) -> _Steps:
        """Read the eids. It yields between short steps."""
        context: Span | None = yield from self._json.read()
        wrapped = yield from self._member(context, b"openrtb")
        prefix = ""
        if wrapped is not None and self._json.is_object(wrapped):
            context, prefix = (yield from self._member(wrapped, b"request", b"context")), PATH_IN_3_0
        for place in _EIDS:
            for path, eid in (yield from self._elements(context, prefix, place)):
                yield from self._read_eid(path, eid)
        for place in _MISPLACED:
            for path, eid in (yield from self._elements(context, prefix, place)):
                yield from self._read_misplaced(path, eid, b".".join(place).decode())

    def _read_eid(self, path: str, eid: Span) -> _Steps:
        members = yield from self._members(eid, b"source", b"uids")
        source = self._text(members.get(b"source"))
        if not self._json.is_object(eid):
            self._note(path, "", "it is not an object")
        elif source is None:
            self._note(path, "", "its source is not a string" if b"source" in members else "it has no source")
        elif (scope := programme_of(source, self._sources)) is None:
            self._note(path, source, lambda: why_unknown(source, self._sources))
            yield
        else:
            yield from self._read_uids(path, source, scope, members.get(b"uids"))

    def _read_uids(self, path: str, source: str, scope: IdentityScope, uids: Span | None) -> _Steps:
        elements = () if uids is None else (yield from self._json.elements(uids))
        if not elements:
            is_list = uids is None or self._json.text[uids[0]] == ord("[")
            self._note(path, source, "it has no uids" if is_list else "its uids are not a list", scope)
        for number, uid in enumerate(elements):
            place = f"{path}/uids/{number}"
            if (entry := self._entries.get(place)) is not None:
                self.eids.append(self._explain_entry(entry))
                yield
            else:
                self._note(place, source, (yield from self._why_no_token(uid)), scope)

    def _read_misplaced(self, path: str, eid: Span, place: str) -> _Steps:
        members = yield from self._members(eid, b"source")
        source = self._text(members.get(b"source"))
        scope = None if source is None else programme_of(source, self._sources)
        if source is not None and scope is not None:
            why = f"it is in {place}, which is not read: user.eids and user.ext.eids are"
            self._note(path, source, why, scope)

    def _why_no_token(self, uid: Span) -> Generator[None, None, str]:
        token = yield from self._member(uid, b"id")
        if not self._json.is_object(uid):
            return "it is not an object"
        if token is None:
            return "it has no id"
        if self._json.text[token[0]] != ord('"'):
            return "its id is not a string"
        return f"it is not among the first {MAX_ENTRIES} ids of our sources"

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

    def _note(self, path: str, source: str, why: str | Callable[[], str], scope: IdentityScope | None = None) -> None:
        """Note why an eid has no token, or that there is another one."""
        if self._foreign >= _MAX_FOREIGN_EIDS:
            self.omitted += 1
            return
        self._foreign += 1
        words = why if isinstance(why, str) else why()
        self.eids.append(EidExplanation(path=path, source=printable(source), scope=scope, why_not_ours=words))

    def _elements(
        self, context: Span | None, prefix: str, place: _Place
    ) -> Generator[None, None, Iterator[tuple[str, Span]]]:
        """Return (JSON Pointer, place in the text) of the elements of a list; none if there is no list there."""
        found = yield from self._member(context, *place)
        elements = () if found is None else (yield from self._json.elements(found))
        path = "/".join((prefix, *[name.decode() for name in place]))
        return ((f"{path}/{index}", element) for index, element in enumerate(elements))

    def _member(self, value: Span | None, *names: bytes) -> Generator[None, None, Span | None]:
        """Return a member of a member; None if there is none."""
        for name in names:
            if value is not None:
                value = (yield from self._members(value, name)).get(name)
        return value

    def _members(self, value: Span, *names: bytes) -> Generator[None, None, dict[bytes, Span]]:
        """Return the members that have these names. Of several with one name, the last counts."""
        found = yield from self._json.members(value, names)
        return {member.name: member.value for member in found if member.is_last}

    def _text(self, value: Span | None) -> str | None:
        """Return the string; None for a value of another type, or none."""
        return None if value is None else self._json.string(value)
