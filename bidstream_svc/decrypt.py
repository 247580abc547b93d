"""(token, domain, snapshot, now_ms) -> verdict: the one function all of this exists for.

The checks and their order are those of docs/protocol.md, "The verdict"; the numbers in comments are its lines. A
verdict is a plain tuple, because that costs a tenth of the cheapest class; failures are made once and handed out.
Nothing here raises, whatever the token.
"""

from struct import error as StructError  # noqa: N812 - an exception, misnamed in the library
from typing import TypeAlias

import pybase64
from cryptography.exceptions import InvalidTag

from bidstream_svc.domains import normalise_domain, registrable_domain
from bidstream_svc.identity import IdentityScope
from bidstream_svc.keys import KeySnapshot
from bidstream_svc.status import DecryptionStatus, FailureReason
from bidstream_svc.token import CLIENT_SIDE_GENERATED, decode_token_text, is_standard_base64, v2, v3, v4

__all__ = ["Verdict", "decrypt"]

# (status, raw uid or None, established in Unix ms or None, reason or None on SUCCESS)
Verdict: TypeAlias = tuple[DecryptionStatus, str | None, int | None, FailureReason | None]


def _failure(reason: FailureReason) -> Verdict:
    return reason.status, None, None, reason


_SUCCESS = DecryptionStatus.SUCCESS
_NO_KEYS = _failure(FailureReason.NO_KEYS)
_KEYS_EXPIRED = _failure(FailureReason.KEYS_EXPIRED)
_NOT_A_TOKEN = _failure(FailureReason.NOT_A_TOKEN)
_BAD_ENCODING = _failure(FailureReason.BAD_ENCODING)
_VERSION_UNKNOWN = _failure(FailureReason.VERSION_UNKNOWN)
_IDENTITY_SCOPE = _failure(FailureReason.IDENTITY_SCOPE)
_MASTER_KEY_UNKNOWN = _failure(FailureReason.MASTER_KEY_UNKNOWN)
_MASTER_LAYER = _failure(FailureReason.MASTER_LAYER)
_EXPIRED = _failure(FailureReason.EXPIRED)
_SITE_KEY_UNKNOWN = _failure(FailureReason.SITE_KEY_UNKNOWN)
_SITE_LAYER = _failure(FailureReason.SITE_LAYER)
_DOMAIN_MISSING = _failure(FailureReason.DOMAIN_MISSING)
_SITE_UNKNOWN = _failure(FailureReason.SITE_UNKNOWN)
_DOMAIN_NOT_LISTED = _failure(FailureReason.DOMAIN_NOT_LISTED)
_LIFETIME_TOO_LONG = _failure(FailureReason.LIFETIME_TOO_LONG)
_GENERATED_IN_FUTURE = _failure(FailureReason.GENERATED_IN_FUTURE)

_MIN_TOKEN_CHARACTERS = 4
_PREFIX_BITS = 0xFF & ~v3.IDENTITY_TYPE_BITS
_PREFIX_OF_SCOPE = {scope: v3.prefix_of_scope(scope) for scope in IdentityScope}


def decrypt(token: object, domain: object, keys: KeySnapshot | None, now_ms: int) -> Verdict:
    """Decrypt an advertising token out of a bid request.

    Args:
        token: the token's text; what is no text is INVALID_PAYLOAD.
        domain: the site's domain or the app's bundle id, or None; looked at only for tokens generated on the client
            side. Upper case, a trailing dot and, for a host name, subdomains are forgiven.
        keys: the operator's keys, or None before any were loaded.
        now_ms: the time to judge by, Unix ms.
    """
    if keys is None:  # 1
        return _NO_KEYS
    if keys.last_expiry_ms <= now_ms:  # 2
        return _KEYS_EXPIRED
    if not isinstance(token, str) or len(token) < _MIN_TOKEN_CHARACTERS:  # 3
        return _NOT_A_TOKEN
    try:
        raw = decode_token_text(token)
    except ValueError:
        return _BAD_ENCODING
    version = raw[1] if len(raw) > 1 else None  # 4
    if version == v4.VERSION and raw[0] != v2.PREFIX:
        return _decrypt_gcm(raw, domain, keys, now_ms)
    if raw[0] == v2.PREFIX:
        return _decrypt_v2(raw, domain, keys, now_ms) if is_standard_base64(token) else _BAD_ENCODING
    if version == v3.VERSION:
        return _decrypt_gcm(raw, domain, keys, now_ms) if is_standard_base64(token) else _BAD_ENCODING
    return _VERSION_UNKNOWN


def _decrypt_gcm(raw: bytes, domain: object, keys: KeySnapshot, now_ms: int) -> Verdict:
    if raw[0] & _PREFIX_BITS != _PREFIX_OF_SCOPE[keys.scope]:  # 5
        return _IDENTITY_SCOPE
    if len(raw) < v3.TOKEN.size:
        return _MASTER_LAYER
    _, _, master_key_id = v3.TOKEN.unpack_from(raw)
    try:
        decrypt_master_layer = keys.gcm_decrypt[master_key_id]
    except KeyError:  # 6
        return _MASTER_KEY_UNKNOWN
    try:
        master_layer = decrypt_master_layer(raw[v3.TOKEN_IV], raw[v3.TOKEN_CIPHERTEXT], None)
        expires_ms, generated_ms, site_key_id, site_iv = v3.MASTER_LAYER_TO_READ.unpack_from(master_layer)
    except (InvalidTag, ValueError, StructError):  # 7
        return _MASTER_LAYER
    if expires_ms < now_ms:  # 8
        return _EXPIRED
    try:
        decrypt_site_layer = keys.gcm_decrypt[site_key_id]
    except KeyError:  # 9
        return _SITE_KEY_UNKNOWN
    try:
        site_layer = decrypt_site_layer(site_iv, master_layer[v3.SITE_CIPHERTEXT], None)
    except (InvalidTag, ValueError):  # 10
        return _SITE_LAYER
    if len(site_layer) < v3.MIN_SITE_LAYER_LENGTH:
        return _SITE_LAYER
    site_id, privacy_bits, established_ms = v3.SITE_LAYER_TO_READ.unpack_from(site_layer)
    failure = _check_use(privacy_bits, site_id, domain, keys, generated_ms, expires_ms, now_ms)
    if failure is not None:
        return failure
    return _SUCCESS, pybase64.b64encode_as_string(site_layer[v3.RAW_UID]), established_ms, None  # 13


def _decrypt_v2(raw: bytes, domain: object, keys: KeySnapshot, now_ms: int) -> Verdict:
    if len(raw) < v2.TOKEN.size:
        return _MASTER_LAYER
    _, master_key_id = v2.TOKEN.unpack_from(raw)
    try:
        decrypt_master_layer = keys.cbc_decrypt[master_key_id]
    except KeyError:  # 6
        return _MASTER_KEY_UNKNOWN
    try:
        master_layer = decrypt_master_layer(raw[v2.TOKEN_IV_AND_CIPHERTEXT])
        expires_ms, site_key_id = v2.MASTER_LAYER.unpack_from(master_layer)
    except (ValueError, StructError):  # 7
        return _MASTER_LAYER
    if expires_ms < now_ms:  # 8
        return _EXPIRED
    try:
        decrypt_site_layer = keys.cbc_decrypt[site_key_id]
    except KeyError:  # 9
        return _SITE_KEY_UNKNOWN
    try:
        site_layer = v2.parse_site_layer(decrypt_site_layer(master_layer[v2.SITE_IV_AND_CIPHERTEXT]))
    except ValueError:  # 10, UnicodeDecodeError among them
        return _SITE_LAYER
    site_id, raw_uid, privacy_bits, established_ms = site_layer
    # v2 does not say when it was generated: 12 takes now in its place.
    failure = _check_use(privacy_bits, site_id, domain, keys, now_ms, expires_ms, now_ms)
    if failure is not None:
        return failure
    return _SUCCESS, raw_uid, established_ms, None


def _check_use(  # noqa: PLR0917 - lines 11 and 12 need all of these, and a carrier object would cost more than they do
    privacy_bits: int,
    site_id: int,
    domain: object,
    keys: KeySnapshot,
    generated_ms: int,
    expires_ms: int,
    now_ms: int,
) -> Verdict | None:
    """Whether a token that opened may be used here and now; None if so."""
    if privacy_bits & CLIENT_SIDE_GENERATED and keys.checks_domains:  # 11
        failure = _check_domain(domain, site_id, keys)
        if failure is not None:
            return failure
    if keys.max_lifetime_ms is not None and expires_ms - generated_ms > keys.max_lifetime_ms:  # 12
        return _LIFETIME_TOO_LONG
    if generated_ms - now_ms > keys.clock_skew_ms:
        return _GENERATED_IN_FUTURE
    return None


def _check_domain(domain: object, site_id: int, keys: KeySnapshot) -> Verdict | None:
    """Whether the site has registered `domain`; None if so."""
    name = normalise_domain(domain) if isinstance(domain, str) else ""
    if not name:
        return _DOMAIN_MISSING
    try:
        registered = keys.domain_names[site_id]
    except KeyError:
        return _SITE_UNKNOWN
    if name in registered or registrable_domain(name) in registered:
        return None
    return _DOMAIN_NOT_LISTED
