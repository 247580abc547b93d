"""Reads any bid request with the positions of its parts, and rewrites it.

It reads what `bid_reader` does not: fields of the wrong type, duplicate names, lone surrogates. A member that a later
one of the same name overrides does not count: its entries are not answered, and a rewrite removes them.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from bidstream_svc.core.openrtb.bid_reader import (
    NULL,
    PATH_IN_3_0,
    BidRequest,
    Entry,
    Sources,
    programme_of,
    string_or_null,
)
from bidstream_svc.core.openrtb.json_check import check_object, replace_lone_surrogates
from bidstream_svc.core.openrtb.json_spans import JsonSpans, Member, Span, Spans

_PER_STEP = 1024  # edits; less than a millisecond of work


# Text that takes the place of what is between two positions: (start, end, text).
Edit: TypeAlias = tuple[int, int, bytes]


@dataclass(slots=True)
class _UidList:
    """A list of uids.

    Attributes:
        array: the list.
        elements: its elements.
        tokens: (index of an element, its `id`, index in the entries of the request) for each that was read.
        removed: by the index of an element, 1 if it has an `id` that is a string and was not read.
        overridden: (index of an element, start, end) for members `id` that do not count.
        counts: whether no later list of the same eid overrides this one.
    """

    array: Span
    elements: Spans
    tokens: list[tuple[int, Span, int]]
    removed: bytearray
    overridden: list[tuple[int, int, int]]
    counts: bool


@dataclass(slots=True)
class _EidList:
    """A list of eids.

    Attributes:
        array: the list.
        elements: its elements.
        ours: (index of an element, its lists of uids) for each that is of our sources.
    """

    array: Span
    elements: Spans
    ours: list[tuple[int, list[_UidList]]]


class BidScanner:
    """Scans one bid request. Every method is a generator that yields between short steps.

    Args:
        body: the bid request, without a byte order mark.
        sources: the sources whose entries are read.
        max_entries: how many are read. A rewrite removes the others.
    """

    def __init__(self, body: bytes, sources: Sources, max_entries: int) -> None:
        self._body = body
        self._sources = sources
        self._max_entries = max_entries
        self._json = JsonSpans(b"")
        self._lists: list[_EidList] = []
        self._request = BidRequest(NULL, [], NULL, NULL)

    def read(self) -> Generator[None, None, BidRequest]:
        """Read the body.

        Raises:
            BidRequestError: it is not a JSON object, or is nested too deeply.
        """
        text = yield from replace_lone_surrogates(self._body)
        check_object(text)
        yield
        self._json = JsonSpans(text)
        whole = yield from self._json.read()
        fields = yield from self._json.members(whole, (b"id", b"user", b"site", b"app", b"openrtb"))
        is_3_0 = False
        for field in fields:
            if field.name == b"openrtb":
                is_3_0 |= field.is_last and self._json.is_object(field.value)
                yield from self._read_3_0(field)
        if not is_3_0:
            yield from self._read_context(fields, "", counts=True)
        return self._request

    def rewrite(self, uids: Sequence[str | None]) -> Generator[None, None, bytes]:
        """Return the body with tokens replaced by raw uids, and without the entries that have none.

        Args:
            uids: the raw uid of each entry that was read, or None.
        """
        edits: list[Edit] = []
        for eid_list in self._lists:
            removed = bytearray(len(eid_list.elements))
            for index, uid_lists in eid_list.ours:
                inner, is_empty = yield from _edit_eid(uid_lists, uids)
                if is_empty:
                    removed[index] = 1
                else:
                    edits += inner
            edits += _remove(eid_list.elements, removed, eid_list.array)
        parts: list[bytes] = []
        position = 0
        for index, (start, end, text) in enumerate(sorted(edits)):
            parts += [self._body[position:start], text]
            position = end
            if index % _PER_STEP == 0:
                yield
        parts.append(self._body[position:])
        return b"".join(parts)

    def _read_3_0(self, wrapped: Member) -> Generator[None, None, None]:
        for request in (yield from self._json.members(wrapped.value, (b"request",))):
            counts = wrapped.is_last and request.is_last
            for field in (yield from self._json.members(request.value, (b"id", b"context"))):
                if field.name == b"id":
                    self._read_id(field, counts=counts)
                else:
                    fields = yield from self._json.members(field.value, (b"user", b"site", b"app"))
                    yield from self._read_context(fields, PATH_IN_3_0, counts=counts and field.is_last)

    def _read_context(self, fields: Iterable[Member], prefix: str, *, counts: bool) -> Generator[None, None, None]:
        for field in fields:
            if field.name == b"user":
                yield from self._read_user(field, f"{prefix}/user", counts=counts and field.is_last)
            elif field.name == b"id":
                self._read_id(field, counts=counts)
            elif counts and field.is_last and field.name == b"site":
                self._request.site = self._raw(field.value)
            elif counts and field.is_last and field.name == b"app":
                self._request.app = self._raw(field.value)

    def _read_id(self, field: Member, *, counts: bool) -> None:
        if counts and field.is_last:
            self._request.raw_id = string_or_null(self._raw(field.value))

    def _read_user(self, user: Member, path: str, *, counts: bool) -> Generator[None, None, None]:
        fields = yield from self._json.members(user.value, (b"eids", b"ext"))
        for field in fields:
            if field.name == b"eids":
                yield from self._read_eids(field.value, f"{path}/eids/", counts=counts and field.is_last)
        for ext in fields:
            if ext.name == b"ext":
                counts_ext = counts and ext.is_last
                for eids in (yield from self._json.members(ext.value, (b"eids",))):
                    yield from self._read_eids(eids.value, f"{path}/ext/eids/", counts=counts_ext and eids.is_last)

    def _read_eids(self, array: Span, path: str, *, counts: bool) -> Generator[None, None, None]:
        eid_list = _EidList(array, (yield from self._json.elements(array)), [])
        for index, element in enumerate(eid_list.elements):
            fields = yield from self._json.members(element, (b"source", b"uids"))
            source = None
            for field in fields:
                if field.name == b"source" and field.is_last:
                    source = self._json.string(field.value)
            scope = None if source is None else programme_of(source, self._sources)
            if source is not None and scope is not None:
                like = Entry(f"{path}{index}/uids/", source, scope, "")
                uid_lists: list[_UidList] = []
                for field in fields:
                    if field.name == b"uids":
                        uid_lists.append((yield from self._read_uids(field, like, counts=counts)))  # noqa: PERF401
                eid_list.ours.append((index, uid_lists))
        self._lists.append(eid_list)

    def _read_uids(self, field: Member, like: Entry, *, counts: bool) -> Generator[None, None, _UidList]:
        """Read a list of uids; `like` has the beginning of their paths, and their source."""
        elements = yield from self._json.elements(field.value)
        uid_list = _UidList(field.value, elements, [], bytearray(len(elements)), [], field.is_last)
        entries = self._request.entries
        for index, element in enumerate(elements):
            members = yield from self._json.members(element, (b"id",))
            uid_list.overridden += [(index, start, end) for start, end in self._json.overridden]
            for member in members:
                if not member.is_last:
                    uid_list.overridden.append((index, member.start, member.next_start))
                elif (token := self._json.string(member.value)) is not None:
                    if counts and field.is_last and len(entries) < self._max_entries:
                        uid_list.tokens.append((index, member.value, len(entries)))
                        entries.append(Entry(f"{like.path}{index}", like.source, like.scope, token))
                    else:
                        uid_list.removed[index] = 1
        return uid_list

    def _raw(self, value: Span) -> bytes:
        return self._body[slice(*value)]


def _edit_eid(
    uid_lists: Sequence[_UidList], uids: Sequence[str | None]
) -> Generator[None, None, tuple[list[Edit], bool]]:
    """Return the edits within an eid, and whether it loses its last entry."""
    edits: list[Edit] = []
    is_empty = False
    for uid_list in uid_lists:
        removed = uid_list.removed
        for index, (start, end), number in uid_list.tokens:
            raw_uid = uids[number]
            if raw_uid is None:
                removed[index] = 1
            else:
                edits.append((start, end, msgspec.json.encode(raw_uid)))
        yield
        edits += [(start, end, b"") for index, start, end in uid_list.overridden if not removed[index]]
        edits += _remove(uid_list.elements, removed, uid_list.array)
        is_empty |= uid_list.counts and len(removed) > 0 and all(removed)
    return edits, is_empty


def _remove(elements: Spans, removed: bytearray, array: Span) -> Iterator[Edit]:
    """Yield the edits that remove elements from an array, with the commas that become too many."""
    first = removed.find(1)
    while first >= 0:
        behind = removed.find(0, first)
        is_at_start, is_at_end = first == 0, behind < 0
        start = array[0] + 1 if is_at_start else elements[first - 1][1]
        end = array[1] - 1 if is_at_end else elements[behind][0]
        yield start, end, b"" if is_at_start or is_at_end else b","
        first = -1 if is_at_end else removed.find(1, behind)
