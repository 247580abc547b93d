"""Removes entries from the usual bid request: lists of eids are written anew, of the texts of their elements.

Where lists are spelled with white space, and where a text is not unique, `bid_scanner` does it. Where a function here
answers, the scanner gives the same answer.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from bidstream_svc.core.openrtb.bid_reader import PlainBidRequest, PlainUids


class _Ext(msgspec.Struct, gc=False):
    eids: list[msgspec.Raw] | None = None


class _User(_Ext, gc=False):
    ext: _Ext | None = None


class _Context(msgspec.Struct, gc=False):
    user: _User | None = None


class _Request30(msgspec.Struct, gc=False):
    context: _Context | None = None


class _OpenRtb30(msgspec.Struct, gc=False):
    request: _Request30 | None = None


class _Request(_Context, gc=False):
    openrtb: _OpenRtb30 | None = None


_decode = msgspec.json.Decoder(_Request).decode
_decode_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


def remove_plain(body: bytes, plain: PlainBidRequest, uids: Sequence[str | None]) -> bytes | None:
    """Replace each token by its raw uid and remove the entries that have none; None if that is not simple.

    Args:
        body: what was read, without a byte order mark.
        plain: what `read_plain` returned for it. All of its lists are known.
        uids: the raw uid of each entry, or None.
    """
    eid_lists: list[list[bytes | None]] = [list(map(bytes, eids)) for eids in _raw_eid_lists(body)]
    before = list(map(_join, eid_lists))
    uid_of_entry = iter(uids)
    for of_eid in plain.uid_lists:
        eid = eid_lists[of_eid.eid_list][of_eid.eid]
        kept = _rewrite_uids(of_eid, uid_of_entry)
        if kept is None or eid is None or eid.count(of_eid.raw) != 1:
            return None
        eid_lists[of_eid.eid_list][of_eid.eid] = (
            eid.replace(of_eid.raw, _join(kept)) if kept or not of_eid.uids else None
        )
    # A list that is in both places is there twice, and has changed in the same way.
    changes = Counter(zip(before, map(_join, eid_lists), strict=True))
    for (old, new), number in changes.items():
        if old != new:
            if body.count(old) != number:
                return None
            body = body.replace(old, new)
    return body


def _rewrite_uids(of_eid: PlainUids, uid_of_entry: Iterator[str | None]) -> list[bytes] | None:
    """Return the texts of those entries that stay; None if the list has white space, or a token is there twice."""
    texts = [bytes(text) for text in _decode_elements(of_eid.raw)]
    if _join(texts) != of_eid.raw:
        return None
    kept = []
    for text, entry in zip(texts, of_eid.uids, strict=True):
        if entry.id is None:
            kept.append(text)
        elif (raw_uid := next(uid_of_entry)) is not None:
            token = b'"%b"' % entry.id.encode()
            if text.count(token) != 1:
                return None
            kept.append(text.replace(token, msgspec.json.encode(raw_uid)))
    return kept


def _raw_eid_lists(body: bytes) -> list[list[msgspec.Raw]]:
    """Return the elements of the lists that `read_plain` has read, in the same order."""
    request = _decode(body)
    context: _Context | None = request
    if request.openrtb is not None:
        context = request.openrtb.request.context if request.openrtb.request else None
    user = context.user if context else None
    if user is None:
        return []
    return [each.eids for each in (user, user.ext) if each is not None and each.eids is not None]


def _join(elements: Sequence[bytes | None]) -> bytes:
    return b"[" + b",".join([text for text in elements if text is not None]) + b"]"
