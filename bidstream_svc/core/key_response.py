"""A key response of an operator, parsed into a `KeySnapshot`.

A response may hold thousands of keys and tens of thousands of domain names. A call into C holds the GIL until it
returns, so decoding all of it in one call would block every other thread. So a first pass only locates each key and
site, if possible in slices (`key_slices`). Each is then decoded by itself, in steps between which the caller may pause.
What a step has decoded is freed in it. Domain names stay raw JSON until a token of their site needs them.

A malformed key, site or name is skipped, so that one of them does not cost all others. A field that the purpose of the
keys does not need may be malformed.

Source: docs/protocol.md, section 2.
"""

from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from bidstream_svc.core.crypto import AES_KEY_LENGTHS
from bidstream_svc.core.errors import KeyResponseError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_slices import MARKERS, Slices, slice_lists
from bidstream_svc.core.keys import (
    DEFAULT_CLOCK_SKEW_S,
    Key,
    KeyPurpose,
    KeySnapshot,
    Site,
    Skipped,
    decode_names,
    split_into_steps,
)
from bidstream_svc.core.lenient import Base64, Integer, make_decoder
from bidstream_svc.core.units import MS_PER_S

_T = TypeVar("_T")

_MAX_REASONS = 5
# msgspec's exceptions name the field and the expected type, never a value.
_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)


class _Body(msgspec.Struct):
    keys: msgspec.Raw
    site_data: msgspec.Raw = msgspec.Raw(b"null")
    identity_scope: str | None = None
    allow_clock_skew_seconds: Integer | None = None


class _BidstreamBody(_Body):
    max_lifetime_seconds: Integer | None = msgspec.field(name="max_bidstream_lifetime_seconds", default=None)


class _SharingBody(_Body):
    max_lifetime_seconds: Integer | None = msgspec.field(name="max_sharing_lifetime_seconds", default=None)
    caller_site_id: Integer | None = None
    master_keyset_id: Integer | None = None
    default_keyset_id: Integer | None = None
    token_expiry_seconds: Integer | None = None


class _BidstreamResponse(msgspec.Struct):
    body: _BidstreamBody


class _SharingResponse(msgspec.Struct):
    body: _SharingBody


class _KeyToDecrypt(msgspec.Struct):
    id: Integer
    secret: Base64
    expires: Integer


class _LenientKey(_KeyToDecrypt):
    activates: Integer | None = None
    keyset_id: Integer | None = None
    site_id: Integer | None = None


class _LenientSite(msgspec.Struct):
    id: Integer
    domain_names: msgspec.Raw = msgspec.Raw(b"[]")


class _Elements(NamedTuple, Generic[_T]):
    decoded: dict[int, _T]  # by id; of two with the same id, the last one counts
    skipped: Skipped


_decode_response: dict[KeyPurpose, Callable[[bytes | str], _BidstreamResponse | _SharingResponse]] = {
    KeyPurpose.BIDSTREAM: make_decoder(_BidstreamResponse),
    KeyPurpose.SHARING: make_decoder(_SharingResponse),
}
_decode_list = make_decoder(list[msgspec.Raw])
_decode_site_list: Callable[[msgspec.Raw], list[msgspec.Raw] | None] = msgspec.json.Decoder(
    list[msgspec.Raw] | None
).decode
# Tried first, because they take a tenth of the time.
_decode_strict_key = msgspec.json.Decoder(Key).decode
_decode_strict_site = msgspec.json.Decoder(Site).decode
_decode_lenient_key = make_decoder(_LenientKey)
_decode_key_to_decrypt = make_decoder(_KeyToDecrypt)
_decode_lenient_site = make_decoder(_LenientSite)
_decode_name = msgspec.json.Decoder(str).decode


def parse_key_response(response: bytes | str, purpose: KeyPurpose = KeyPurpose.BIDSTREAM) -> KeySnapshot:
    """Parse the JSON of /v2/key/bidstream or /v2/key/sharing, `{"body": {...}}`.

    Raises:
        KeyResponseError: not JSON, a field outside of the lists that the purpose needs is missing or has the wrong
            type, or there are keys and all of them are malformed.
    """
    steps = parse_in_steps(response, purpose)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            snapshot: KeySnapshot = end.value
            return snapshot


def parse_in_steps(
    response: bytes | str, purpose: KeyPurpose = KeyPurpose.BIDSTREAM, previous: KeySnapshot | None = None
) -> Generator[None, None, KeySnapshot]:
    """`parse_key_response` as a generator: it yields between short steps and returns the snapshot.

    Args:
        response: as for `parse_key_response`.
        purpose: as for `parse_key_response`.
        previous: the keys in use; caches of unchanged keys and sites are reused.

    Raises:
        KeyResponseError: as for `parse_key_response`.
    """
    body, lists = yield from _read_body(response, purpose)
    if "keys" not in lists:
        lists["keys"] = _split(_decode(_decode_list, body.keys, "keys"))
        yield
    has_keys = bool(lists["keys"])
    keys = yield from _decode_each(_decode_key, lambda key: key.key_id, lists["keys"], "keys")
    if has_keys and not keys.decoded:
        raise KeyResponseError(f"key response: {keys.skipped.reasons[0]}")
    if "site_data" not in lists:
        raw_sites = _decode(_decode_site_list, body.site_data, "site_data")
        lists["site_data"] = _split(raw_sites or [])
        yield
    sites = yield from _decode_each(_decode_site, lambda site: site.site_id, lists["site_data"], "site_data")
    snapshot = _make_snapshot(body, keys, sites)
    if previous is not None:
        yield
        yield from snapshot.reuse_from(previous)
    return snapshot


def _read_body(
    response: bytes | str, purpose: KeyPurpose
) -> Generator[None, None, tuple[_BidstreamBody | _SharingBody, dict[str, Slices]]]:
    """Return the body, and of its lists those that were read in slices."""
    sliced = None if isinstance(response, str) else (yield from slice_lists(response))
    if sliced is not None:
        try:
            body = _decode_response[purpose](sliced.json).body
        except _DECODE_ERRORS:  # decoded as a whole, it fails again, with the right position in the message
            pass
        else:
            if all(getattr(body, name) == MARKERS[name] for name in sliced.lists):
                return body, sliced.lists
    body = _decode(_decode_response[purpose], response).body
    yield
    return body, {}


def _split(elements: list[msgspec.Raw]) -> Slices:
    return [list(step) for step in split_into_steps(elements)]


def _make_snapshot(body: _BidstreamBody | _SharingBody, keys: _Elements[Key], sites: _Elements[Site]) -> KeySnapshot:
    sharing = body if isinstance(body, _SharingBody) else _SharingBody(body.keys)  # of the latter all fields are None
    lifetime_s, skew_s = body.max_lifetime_seconds, body.allow_clock_skew_seconds
    return KeySnapshot(
        keys=keys.decoded,
        sites=sites.decoded,
        scope=_scope(body.identity_scope),
        checks_domains=sharing is not body,
        max_lifetime_ms=None if lifetime_s is None else lifetime_s * MS_PER_S,
        clock_skew_ms=(DEFAULT_CLOCK_SKEW_S if skew_s is None else skew_s) * MS_PER_S,
        caller_site_id=sharing.caller_site_id,
        master_keyset_id=sharing.master_keyset_id,
        default_keyset_id=sharing.default_keyset_id,
        token_expiry_s=sharing.token_expiry_seconds,
        skipped_keys=keys.skipped,
        skipped_sites=sites.skipped,
    )


class _Malformed:
    """Collects what is skipped, for `Skipped`."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: list[str] = []

    def add(self, place: str, error: Exception) -> None:
        self.count += 1
        if len(self.reasons) < _MAX_REASONS:
            self.reasons.append(f"{place}: {error}")


def _decode_each(
    decode: Callable[[msgspec.Raw, str, _Malformed], _T], id_of: Callable[[_T], int], slices: Slices, name: str
) -> Generator[None, None, _Elements[_T]]:
    """Decode all elements, and empty `slices`."""
    decoded: dict[int, _T] = {}
    malformed = _Malformed()
    index = 0
    slices.reverse()
    while slices:
        for step in split_into_steps(slices.pop()):
            for element in step:
                place = f"{name}[{index}]"
                index += 1
                try:
                    item = decode(element, place, malformed)
                except _DECODE_ERRORS as error:
                    malformed.add(place, error)
                else:
                    decoded[id_of(item)] = item
            yield
    return _Elements(decoded, Skipped(malformed.count, tuple(malformed.reasons)))


def _decode_key(element: msgspec.Raw, _place: str, _malformed: _Malformed) -> Key:
    try:
        key = _decode_strict_key(element)
    except _DECODE_ERRORS:
        key = _decode_odd_key(element)
    if len(key.secret) not in AES_KEY_LENGTHS:
        raise ValueError(f"the secret has {len(key.secret)} bytes; an AES key has 16, 24 or 32")
    return key


def _decode_odd_key(element: msgspec.Raw) -> Key:
    try:
        fields: _KeyToDecrypt = _decode_lenient_key(element)
    except _DECODE_ERRORS:  # such a key has no key set, so it decrypts and is never chosen to encrypt
        fields = _decode_key_to_decrypt(element)
    return Key(*msgspec.structs.astuple(fields))


def _decode_site(element: msgspec.Raw, place: str, malformed: _Malformed) -> Site:
    try:
        site = _decode_strict_site(element)
    except _DECODE_ERRORS:
        site = Site(*msgspec.structs.astuple(_decode_lenient_site(element)))
    try:
        decode_names(site.raw_domain_names)
    except _DECODE_ERRORS:
        names = _valid_names(site.raw_domain_names, f"{place}.domain_names", malformed)
        return Site(site.site_id, msgspec.Raw(msgspec.json.encode(names)))
    return site


def _valid_names(raw_names: msgspec.Raw, place: str, malformed: _Malformed) -> list[str]:
    try:
        elements = _decode_list(raw_names)
    except _DECODE_ERRORS as error:
        malformed.add(place, error)
        return []
    names = []
    for index, element in enumerate(elements):
        try:
            names.append(_decode_name(element))
        except _DECODE_ERRORS as error:
            malformed.add(f"{place}[{index}]", error)
    return names


def _decode(decode: Callable[[Any], _T], data: bytes | str | msgspec.Raw, place: str = "") -> _T:
    try:
        return decode(data)
    except _DECODE_ERRORS as error:
        raise KeyResponseError(f"key response: {place}{': ' if place else ''}{error}") from None


def _scope(name: str | None) -> IdentityScope:
    try:
        return IdentityScope["UID2" if name is None else name]
    except KeyError:
        raise KeyResponseError("key response: identity_scope is neither UID2 nor EUID") from None
