"""Reads any bid request with the positions of its parts, and rewrites it.

It reads what `bid_reader` does not: fields of the wrong type, duplicate names, lone surrogates. A member that a later
one of the same name overrides does not count: its entries are not answered, and a rewrite removes them.
"""

from collections.abc import Generator, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

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
from bidstream_svc.core.openrtb.json_spans import JsonSpans, Member, Span

_PER_STEP = 1024  # edits; less than a millisecond of work


class Edit(NamedTuple):
    """Text that takes the place of what is between two positions."""

    start: int
    end: int
    text: bytes


class _Uid(NamedTuple):
    """An entry of a list of uids.

    Attributes:
        token: its `id`; None if that is not a string.
        number: index in the entries of the request; None if it does not count.
        overridden: what removes the members `id` that do not count.
    """

    element: Span
    token: Span | None
    number: int | None
    overridden: list[Edit]


class _UidList(NamedTuple):
    """A list of uids. `counts` is false if a later list of the same eid overrides it."""

    array: Span
    uids: list[_Uid]
    counts: bool


class _Eid(NamedTuple):
    """An eid; `lists` are empty if it is not of our sources."""

    element: Span
    lists: list[_UidList]


class _EidList(NamedTuple):
    array: Span
    eids: list[_Eid]


class BidScanner:
    """Scans one bid request. Every method is a generator that yields between short steps.

    Args:
        body: the bid request, without a byte order mark.
        sources: the sources whose entries are read.
    """

    def __init__(self, body: bytes, sources: Sources) -> None:
        self._body = body
        self._sources = sources
        self._json = JsonSpans(b"")
        self._lists: list[_EidList] = []
        self._request = BidRequest(NULL, [], NULL, NULL)

    def read(self) -> Generator[None, None, BidRequest]:
        """Read the body.

        Raises:
            BidRequestError: it is not a JSON object, or is nested too deeply.
        """
        text = replace_lone_surrogates(self._body)
        yield from check_object(text)
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
            uids: the raw uids of the first entries. Those behind have none.
        """
        edits: list[Edit] = []
        for eid_list in self._lists:
            removed: set[int] = set()
            for index, eid in enumerate(eid_list.eids):
                inner, is_empty = yield from self._edit_eid(eid, uids)
                if is_empty:
                    removed.add(index)
                else:
                    edits += inner
            edits += _remove([eid.element for eid in eid_list.eids], removed, eid_list.array)
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
        eids: list[_Eid] = []
        for index, element in enumerate((yield from self._json.elements(array))):
            fields = yield from self._json.members(element, (b"source", b"uids"))
            source = None
            for field in fields:
                if field.name == b"source" and field.is_last:
                    source = self._json.string(field.value)
            scope = None if source is None else programme_of(source, self._sources)
            lists: list[_UidList] = []
            if source is not None and scope is not None:
                like = Entry(f"{path}{index}/uids/", source, scope, "")
                for field in fields:
                    if field.name == b"uids":
                        lists.append((yield from self._read_uids(field, like, counts=counts)))  # noqa: PERF401
            eids.append(_Eid(element, lists))
        self._lists.append(_EidList(array, eids))

    def _read_uids(self, field: Member, like: Entry, *, counts: bool) -> Generator[None, None, _UidList]:
        """Read a list of uids; `like` has the beginning of their paths, and their source."""
        uids: list[_Uid] = []
        entries = self._request.entries
        for index, element in enumerate((yield from self._json.elements(field.value))):
            token_span, number = None, None
            overridden: list[Edit] = []
            for member in (yield from self._json.members(element, (b"id",))):
                token = self._json.string(member.value)
                if not member.is_last:
                    overridden.append(Edit(member.start, member.next_start, b""))
                elif token is not None:
                    token_span = member.value
                    if counts and field.is_last:
                        number = len(entries)
                        entries.append(like._replace(path=f"{like.path}{index}", token=token))
            uids.append(_Uid(element, token_span, number, overridden))
        return _UidList(field.value, uids, field.is_last)

    def _raw(self, value: Span) -> bytes:
        return self._body[value.start : value.end]

    def _edit_eid(self, eid: _Eid, uids: Sequence[str | None]) -> Generator[None, None, tuple[list[Edit], bool]]:
        """Return the edits within an eid, and whether it loses its last entry."""
        edits: list[Edit] = []
        is_empty = False
        for uid_list in eid.lists:
            removed: set[int] = set()
            for index, (_, token, number, overridden) in enumerate(uid_list.uids):
                raw_uid = uids[number] if number is not None and number < len(uids) else None
                if token is not None and raw_uid is None:
                    removed.add(index)
                    continue
                edits += overridden
                if token is not None:
                    edits.append(Edit(*token, msgspec.json.encode(raw_uid)))
                if index % _PER_STEP == 0:
                    yield
            edits += _remove([uid.element for uid in uid_list.uids], removed, uid_list.array)
            is_empty |= uid_list.counts and 0 < len(removed) == len(uid_list.uids)
        return edits, is_empty


def _remove(elements: Sequence[Span], removed: set[int], array: Span) -> list[Edit]:
    """The edits that remove elements from an array: of what is between those that stay."""
    if not removed:
        return []
    kept = [index for index in range(len(elements)) if index not in removed]
    if not kept:
        return [Edit(array.start + 1, array.end - 1, b"")]
    edits = [
        Edit(elements[before].end, elements[behind].start, b",")
        for before, behind in pairwise(kept)
        if behind - before > 1
    ]
    if kept[0] > 0:
        edits.append(Edit(array.start + 1, elements[kept[0]].start, b""))
    if kept[-1] < len(elements) - 1:
        edits.append(Edit(elements[kept[-1]].end, array.end - 1, b""))
    return edits
