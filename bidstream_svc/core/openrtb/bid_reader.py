"""Reads the usual bid request in one typed decoding, and rewrites it by replacing text.

Whatever is unusual gives None: a field of the wrong type, a lone surrogate, anything malformed. `bid_scanner` reads it,
and gives the same for what is usual. Where a function here answers, the scanner gives the same answer; a property test
compares the two.
"""

from collections.abc import Mapping, Sequence

import msgspec

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import count

# The `source` of an eid, in lower case, and the programme that it belongs to.
Sources = Mapping[str, IdentityScope]

NULL = b"null"
PATH_IN_3_0 = "/openrtb/request/context"
_NULL = msgspec.Raw(NULL)
_ABSENT = msgspec.Raw(b"")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry of `uids` whose eid is of one of our sources.

    Attributes:
        path: a JSON Pointer.
        source: of the eid, as it came.
        token: its `id`.
    """

    path: str
    source: str
    scope: IdentityScope
    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return f"Entry({self.path}, {self.scope.name})"


class BidRequest(msgspec.Struct, gc=False):
    """What is read of a bid request. Values are JSON as it came.

    Attributes:
        raw_id: `id`, or `null` if it is not a string.
        entries: in document order, those of `user.eids` before those of `user.ext.eids`.
        site: `site`, of any type.
        app: `app`, of any type.
    """

    raw_id: bytes
    entries: list[Entry]
    site: bytes
    app: bytes

    def __repr__(self) -> str:
        """Without what it contains."""
        return f"BidRequest({self.entries!r})"


class _Uid(msgspec.Struct, gc=False):
    id: str | None = None


class _Eid(msgspec.Struct, gc=False):
    source: str | None = None
    uids: msgspec.Raw = _ABSENT


class _UserExt(msgspec.Struct, gc=False):
    eids: list[_Eid] | None = None


class _User(msgspec.Struct, gc=False):
    eids: list[_Eid] | None = None
    ext: _UserExt | None = None


class _Context(msgspec.Struct, gc=False):
    user: _User | None = None
    site: msgspec.Raw = _NULL
    app: msgspec.Raw = _NULL


class _Request30(msgspec.Struct, gc=False):
    id: msgspec.Raw = _NULL
    context: _Context | None = None


class _OpenRtb30(msgspec.Struct, gc=False):
    request: _Request30 | None = None


class _Request(_Context, gc=False):
    id: msgspec.Raw = _NULL
    openrtb: _OpenRtb30 | None = None


_decode = msgspec.json.Decoder(_Request).decode
_decode_uids = msgspec.json.Decoder(list[_Uid]).decode


class PlainUids(msgspec.Struct, gc=False):
    """A list of uids of one of our sources.

    Attributes:
        eid_list, eid: its place: index of the list of eids, and of the eid in that.
        raw: its JSON.
        uids: its elements.
    """

    eid_list: int
    eid: int
    raw: bytes
    uids: list[_Uid]

    def __repr__(self) -> str:
        """Without the tokens."""
        return f"PlainUids({self.eid_list}, {self.eid})"


class PlainBidRequest(BidRequest, gc=False):
    """A usual bid request.

    Attributes:
        eid_lists: the lists of eids that there are.
        uid_lists: the lists of uids of our sources.
    """

    eid_lists: list[list[_Eid]]
    uid_lists: list[PlainUids]


def programme_of(source: str, sources: Sources) -> IdentityScope | None:
    """Return the programme that a source belongs to. ASCII case is ignored."""
    scope = sources.get(source.lower())
    return scope if scope is not None and source.isascii() else None


def string_or_null(raw: bytes) -> bytes:
    """Return JSON of a string as it is, and `null` for that of anything else."""
    return raw if raw.startswith(b'"') else NULL


def read_plain(body: bytes, sources: Sources) -> PlainBidRequest | None:
    """Read a usual bid request of a known depth; None for all others. No body raises."""
    try:
        request = _decode(body)
        context, raw_id, prefix = request, request.id, ""
        if request.openrtb is not None:
            wrapped = request.openrtb.request or _Request30()
            context, raw_id, prefix = wrapped.context or _Context(), wrapped.id, PATH_IN_3_0  # type: ignore[assignment]
        plain = PlainBidRequest(string_or_null(bytes(raw_id)), [], bytes(context.site), bytes(context.app), [], [])
        user = context.user
        if user is not None:
            if user.eids is not None:
                _read_eids(plain, user.eids, prefix + "/user/eids/", sources)
            if user.ext is not None and user.ext.eids is not None:
                _read_eids(plain, user.ext.eids, prefix + "/user/ext/eids/", sources)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return plain


def _read_eids(plain: PlainBidRequest, eids: list[_Eid], path: str, sources: Sources) -> None:
    plain.eid_lists.append(eids)
    for index, eid in enumerate(eids):
        source = eid.source
        if source is None or (scope := sources.get(source.lower())) is None or not source.isascii():
            continue
        raw = bytes(eid.uids)
        if not raw:
            continue
        uids = _decode_uids(raw)
        plain.uid_lists.append(PlainUids(len(plain.eid_lists) - 1, index, raw, uids))
        for number, uid in enumerate(uids):
            if uid.id is not None:
                plain.entries.append(Entry(f"{path}{index}/uids/{number}", source, scope, uid.id))


def rewrite_plain(body: bytes, plain: PlainBidRequest, uids: Sequence[str | None]) -> bytes | None:
    """Replace every token by its raw uid; None if one has none, or if a token may be found elsewhere, too.

    Args:
        body: what was read, without a byte order mark.
        plain: what `read_plain` returned for it. All of its lists are known.
        uids: the raw uid of each entry, or None.
    """
    uid_of_token: dict[str, str] = {}
    number_of: dict[str, int] = {}
    for entry, uid in zip(plain.entries, uids, strict=True):
        token = entry.token
        if uid is None or uid_of_token.setdefault(token, uid) != uid:
            return None
        number_of[token] = number_of.get(token, 0) + 1
    for token, uid in uid_of_token.items():
        parts = body.split(b'"%b"' % token.encode())
        if len(parts) != number_of[token] + 1:
            return None
        body = msgspec.json.encode(uid).join(parts)
    return body


def are_all_lists_known(body: bytes, plain: PlainBidRequest) -> bool:
    """Return whether no member that a later one of its name overrides has a list of eids, of uids or an id of ours.

    None of these names occurs in the text more often than it was read, in no spelling.
    """
    if b"\\" in body and (count(body, b"\\u006") or count(body, b"\\u007")):  # perhaps a letter of a name
        return False
    if count(body, b'"eids"') != len(plain.eid_lists):
        return False
    lists_of_uids = len([eid for eids in plain.eid_lists for eid in eids if eid.uids is not _ABSENT])
    if count(body, b'"uids"') != lists_of_uids:
        return False
    for each in plain.uid_lists:
        # Each of these has one `id`, and the others have none.
        with_id = len([uid for uid in each.uids if uid.id is not None])
        if b"\\" in each.raw or each.raw.count(b'"id"') != with_id:
            return False
    return True
