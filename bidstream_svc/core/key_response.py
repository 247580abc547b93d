"""A key response of an operator, parsed into a `KeySnapshot`.

A response may hold thousands of keys and tens of thousands of domain names, and a call into C blocks every other
thread until it returns. So a first pass only locates each key and site. Each is then decoded by itself, in steps
between which the caller may pause. Domain names stay raw JSON until a token of their site needs them.

Source: docs/protocol.md, section 2.
"""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

import msgspec

from bidstream_svc.core.crypto import AES_KEY_LENGTHS
from bidstream_svc.core.errors import KeyResponseError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import DEFAULT_CLOCK_SKEW_S, Key, KeyPurpose, KeySnapshot, Site, split_into_steps
from bidstream_svc.core.units import MS_PER_S

_T = TypeVar("_T")


class _Body(msgspec.Struct):
    keys: msgspec.Raw
    site_data: msgspec.Raw = msgspec.Raw(b"null")
    identity_scope: str | None = None
    max_bidstream_lifetime_seconds: int | None = None
    max_sharing_lifetime_seconds: int | None = None
    allow_clock_skew_seconds: int | None = None
    caller_site_id: int | None = None
    master_keyset_id: int | None = None
    default_keyset_id: int | None = None
    token_expiry_seconds: int | str | None = None  # operators send either


class _Response(msgspec.Struct):
    body: _Body


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_list_or_null = msgspec.json.Decoder(list[msgspec.Raw] | None).decode
_decode_any_key = msgspec.json.Decoder(Key).decode
_decode_site = msgspec.json.Decoder(Site).decode


def parse_key_response(response: bytes | str, purpose: KeyPurpose = KeyPurpose.BIDSTREAM) -> KeySnapshot:
    """Parse the JSON of /v2/key/bidstream or /v2/key/sharing, `{"body": {...}}`.

    Raises:
        KeyResponseError: not JSON, a field is missing or has the wrong type, or a secret is not an AES key.
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
    raw_sites = _decode(_decode_list_or_null, body.site_data, "site_data")
    yield
    sites = yield from _decode_each(_decode_site, raw_sites or [], "site_data")
    snapshot = _make_snapshot(body, keys, sites, purpose)
    if previous is not None:
        yield from snapshot.reuse_from(previous)
    return snapshot


def _make_snapshot(body: _Body, keys: list[Key], sites: list[Site], purpose: KeyPurpose) -> KeySnapshot:
    is_bidstream = purpose is KeyPurpose.BIDSTREAM
    lifetime_s = body.max_bidstream_lifetime_seconds if is_bidstream else body.max_sharing_lifetime_seconds
    skew_s = DEFAULT_CLOCK_SKEW_S if body.allow_clock_skew_seconds is None else body.allow_clock_skew_seconds
    return KeySnapshot(
        keys={key.key_id: key for key in keys},
        sites={site.site_id: site for site in sites},
        scope=_scope(body.identity_scope),
        checks_domains=is_bidstream,
        max_lifetime_ms=None if lifetime_s is None else lifetime_s * MS_PER_S,
        clock_skew_ms=skew_s * MS_PER_S,
        caller_site_id=body.caller_site_id,
        master_keyset_id=body.master_keyset_id,
        default_keyset_id=body.default_keyset_id,
        token_expiry_s=_to_int(body.token_expiry_seconds),
    )


def _decode_each(
    decode: Callable[[msgspec.Raw], _T], entries: list[msgspec.Raw], name: str
) -> Generator[None, None, list[_T]]:
    decoded = []
    for step in split_into_steps(range(len(entries))):
        decoded += [_decode(decode, entries[index], f"{name}[{index}]") for index in step]
        yield
    return decoded


def _decode_key(entry: msgspec.Raw) -> Key:
    key = _decode_any_key(entry)
    if len(key.secret) not in AES_KEY_LENGTHS:
        raise ValueError(f"the secret has {len(key.secret)} bytes; an AES key has 16, 24 or 32")
    return key


def _decode(decode: Callable[[Any], _T], data: bytes | str | msgspec.Raw, place: str = "") -> _T:
    try:
        return decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # msgspec names the field and the expected type, never a value.
        raise KeyResponseError(f"key response: {place}{': ' if place else ''}{error}") from None


def _scope(name: str | None) -> IdentityScope:
    try:
        return IdentityScope["UID2" if name is None else name]
    except KeyError:
        raise KeyResponseError("key response: identity_scope is neither UID2 nor EUID") from None


def _to_int(number: int | str | None) -> int | None:
    try:
        return None if number is None else int(number)
    except ValueError:
        raise KeyResponseError("key response: token_expiry_seconds is not an integer") from None
