"""A key response of an operator, parsed into a `KeySnapshot`.

A response may hold thousands of keys and tens of thousands of domain names. A call into C holds the GIL until it
returns, so decoding all of it in one call would block every other thread. So a first pass only locates each key and
site. Each is then decoded by itself, in steps between which the caller may pause. Domain names stay raw JSON until a
token of their site needs them.

A malformed key or site is skipped, so that one of them does not cost all others.

Source: docs/protocol.md, section 2.
"""

from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from bidstream_svc.core.crypto import AES_KEY_LENGTHS
from bidstream_svc.core.errors import KeyResponseError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import (
    DEFAULT_CLOCK_SKEW_S,
    Key,
    KeyPurpose,
    KeySnapshot,
    Site,
    Skipped,
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
    max_bidstream_lifetime_seconds: Integer | None = None
    max_sharing_lifetime_seconds: Integer | None = None
    allow_clock_skew_seconds: Integer | None = None
    caller_site_id: Integer | None = None
    master_keyset_id: Integer | None = None
    default_keyset_id: Integer | None = None
    token_expiry_seconds: Integer | None = None


class _Response(msgspec.Struct):
    body: _Body


class _LenientKey(msgspec.Struct):
    id: Integer
    secret: Base64
    expires: Integer
    activates: Integer | None = None
    created: Integer | None = None
    keyset_id: Integer | None = None
    site_id: Integer | None = None


class _LenientSite(msgspec.Struct):
    id: Integer
    domain_names: msgspec.Raw = msgspec.Raw(b"[]")


class _Elements(NamedTuple, Generic[_T]):
    decoded: list[_T]
    skipped: Skipped


_decode_response = make_decoder(_Response)
_decode_list = make_decoder(list[msgspec.Raw])
_decode_site_list: Callable[[msgspec.Raw], list[msgspec.Raw] | None] = msgspec.json.Decoder(
    list[msgspec.Raw] | None
).decode
# Tried first, because they take a tenth of the time.
_decode_strict_key = msgspec.json.Decoder(Key).decode
_decode_strict_site = msgspec.json.Decoder(Site).decode
_decode_lenient_key = make_decoder(_LenientKey)
_decode_lenient_site = make_decoder(_LenientSite)


def parse_key_response(response: bytes | str, purpose: KeyPurpose = KeyPurpose.BIDSTREAM) -> KeySnapshot:
    """Parse the JSON of /v2/key/bidstream or /v2/key/sharing, `{"body": {...}}`.

    Raises:
        KeyResponseError: not JSON, a field outside of the lists is missing or has the wrong type, or there are keys
            and all of them are malformed.
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
    body = _decode(_decode_response, response).body
    yield
    raw_keys = _decode(_decode_list, body.keys, "keys")
    yield
    keys = yield from _decode_each(_decode_key, raw_keys, "keys")
    if raw_keys and not keys.decoded:
        raise KeyResponseError(f"key response: {keys.skipped.reasons[0]}")
    raw_sites = _decode(_decode_site_list, body.site_data, "site_data")
    yield
    sites = yield from _decode_each(_decode_site, raw_sites or [], "site_data")
    snapshot = _make_snapshot(body, keys, sites, purpose)
    if previous is not None:
        yield from snapshot.reuse_from(previous)
    return snapshot


def _make_snapshot(body: _Body, keys: _Elements[Key], sites: _Elements[Site], purpose: KeyPurpose) -> KeySnapshot:
    is_bidstream = purpose is KeyPurpose.BIDSTREAM
    lifetime_s = body.max_bidstream_lifetime_seconds if is_bidstream else body.max_sharing_lifetime_seconds
    skew_s = body.allow_clock_skew_seconds
    return KeySnapshot(
        keys={key.key_id: key for key in keys.decoded},  # of two with the same id, the last one counts
        sites={site.site_id: site for site in sites.decoded},
        scope=_scope(body.identity_scope),
        checks_domains=is_bidstream,
        max_lifetime_ms=None if lifetime_s is None else lifetime_s * MS_PER_S,
        clock_skew_ms=(DEFAULT_CLOCK_SKEW_S if skew_s is None else skew_s) * MS_PER_S,
        caller_site_id=body.caller_site_id,
        master_keyset_id=body.master_keyset_id,
        default_keyset_id=body.default_keyset_id,
        token_expiry_s=body.token_expiry_seconds,
        skipped_keys=keys.skipped,
        skipped_sites=sites.skipped,
    )


def _decode_each(
    decode: Callable[[msgspec.Raw], _T], elements: list[msgspec.Raw], name: str
) -> Generator[None, None, _Elements[_T]]:
    decoded: list[_T] = []
    reasons: list[str] = []
    for step in split_into_steps(range(len(elements))):
        for index in step:
            try:
                decoded.append(decode(elements[index]))
            except _DECODE_ERRORS as error:
                if len(reasons) < _MAX_REASONS:
                    reasons.append(f"{name}[{index}]: {error}")
        yield
    return _Elements(decoded, Skipped(len(elements) - len(decoded), tuple(reasons)))


def _decode_key(element: msgspec.Raw) -> Key:
    try:
        key = _decode_strict_key(element)
    except msgspec.ValidationError:
        key = Key(*msgspec.structs.astuple(_decode_lenient_key(element)))
    if len(key.secret) not in AES_KEY_LENGTHS:
        raise ValueError(f"the secret has {len(key.secret)} bytes; an AES key has 16, 24 or 32")
    return key


def _decode_site(element: msgspec.Raw) -> Site:
    try:
        return _decode_strict_site(element)
    except msgspec.ValidationError:
        return Site(*msgspec.structs.astuple(_decode_lenient_site(element)))


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
