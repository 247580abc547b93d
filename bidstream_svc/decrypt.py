"""(token, domain, snapshot, now_ms) -> verdict: the one function all of this exists for.

The checks and their order are those of docs/protocol.md, "The verdict"; the numbers in comments are its lines.
Nothing here raises, whatever the token.

This is the module where speed shapes the code. For each snapshot, closures are made once that hold everything
they need as local names; a verdict is a plain tuple, a tenth of the cheapest class; failures are made once and handed
out. The plain way to say the same is tests/core/reference.py, and a property says that both always agree.
"""

from collections.abc import Callable
from math import inf
from struct import error as StructError  # noqa: N812 - an exception, misnamed in the library
from typing import TypeAlias

import pybase64
from cryptography.exceptions import InvalidTag

from bidstream_svc.crypto import make_cbc_decrypt
from bidstream_svc.domains import normalise_domain, registrable_domain
from bidstream_svc.keys import KeySnapshot
from bidstream_svc.status import DecryptionStatus, FailureReason
from bidstream_svc.token import CLIENT_SIDE_GENERATED, text, v2, v3, v4

__all__ = ["BoundDecrypt", "Verdict", "bind_decrypt", "decrypt", "decrypt_without_keys"]

# (status, raw uid or None, established in Unix ms or None, reason or None on SUCCESS)
Verdict: TypeAlias = tuple[DecryptionStatus, str | None, int | None, FailureReason | None]

# (token, domain, now_ms) -> verdict: `decrypt` for one snapshot and one thread.
BoundDecrypt: TypeAlias = Callable[[object, object, int], Verdict]
# (bytes of a token, domain, now_ms) -> verdict: the same for one layout.
_DecryptBytes: TypeAlias = Callable[[bytes, object, int], Verdict]


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
    try:
        bound: BoundDecrypt = keys.local.decrypt
    except AttributeError:
        bound = keys.local.decrypt = bind_decrypt(keys)
    return bound(token, domain, now_ms)


def decrypt_without_keys(_token: object, _domain: object, _now_ms: int) -> Verdict:
    """`decrypt` before any keys were loaded."""
    return _NO_KEYS


def bind_decrypt(keys: KeySnapshot) -> BoundDecrypt:
    """Make `decrypt` for one snapshot; to be called by one thread at a time, because v2's ciphers have a state."""
    last_expiry_ms = keys.last_expiry_ms
    decrypt_gcm, decrypt_v2 = _bind_gcm(keys), _bind_v2(keys)
    v2_prefix, v3_version, v4_version = v2.PREFIX, v3.VERSION, v4.VERSION
    from_base64, url_alphabet = pybase64.b64decode, text.URL_ALPHABET
    paddings, final_characters = text.PADDINGS, text.FINAL_CHARACTERS

    def decrypt_text(token: object, domain: object, now_ms: int) -> Verdict:
        if last_expiry_ms <= now_ms:  # 2
            return _KEYS_EXPIRED
        if not isinstance(token, str) or len(token) < _MIN_TOKEN_CHARACTERS:  # 3
            return _NOT_A_TOKEN
        padding = paddings[len(token) % 4]
        is_url_safe = "-" in token or "_" in token
        if is_url_safe and ("+" in token or "/" in token):
            return _BAD_ENCODING
        try:
            # Given an alphabet, even the standard one, the decoder first copies the text.
            raw = from_base64(token + padding, url_alphabet if is_url_safe else None, True)
        except ValueError:
            return _BAD_ENCODING
        rest = len(raw) % 3
        if rest and token[-1 if padding else rest - 4] not in final_characters[rest]:
            return _BAD_ENCODING
        version = raw[1] if len(raw) > 1 else None  # 4
        if version == v4_version and raw[0] != v2_prefix:
            return decrypt_gcm(raw, domain, now_ms)
        # Only v4 may be spelt in base64url, or without padding.
        if raw[0] == v2_prefix:
            return _BAD_ENCODING if is_url_safe or padding else decrypt_v2(raw, domain, now_ms)
        if version == v3_version:
            return _BAD_ENCODING if is_url_safe or padding else decrypt_gcm(raw, domain, now_ms)
        return _VERSION_UNKNOWN

    return decrypt_text


def _bind_gcm(keys: KeySnapshot) -> _DecryptBytes:
    prefix_of_scope = v3.prefix_of_scope(keys.scope)
    master_ciphers, site_ciphers = keys.master_gcm_decrypt, keys.site_gcm_decrypt
    unpack_token, unpack_master_layer = v3.TOKEN.unpack_from, v3.MASTER_LAYER_TO_READ.unpack_from
    unpack_site_layer, to_base64 = v3.SITE_LAYER_TO_READ.unpack_from, pybase64.b64encode_as_string
    token_iv, token_ciphertext = v3.TOKEN_IV, v3.TOKEN_CIPHERTEXT
    site_ciphertext, raw_uid = v3.SITE_CIPHERTEXT, v3.RAW_UID
    min_site_layer_length = v3.MIN_SITE_LAYER_LENGTH
    bits_to_check, max_lifetime_ms, clock_skew_ms = _rules_of_use(keys)

    def decrypt_gcm(raw: bytes, domain: object, now_ms: int) -> Verdict:
        if raw[0] & _PREFIX_BITS != prefix_of_scope:  # 5
            return _IDENTITY_SCOPE
        try:
            _, _, master_key_id = unpack_token(raw)
            decrypt_master_layer = master_ciphers[master_key_id]
        except KeyError:  # 6
            return _MASTER_KEY_UNKNOWN
        except StructError:
            return _MASTER_LAYER
        try:
            master_layer = decrypt_master_layer(raw[token_iv], raw[token_ciphertext], None)
            expires_ms, generated_ms, site_key_id, site_iv = unpack_master_layer(master_layer)
        except (InvalidTag, ValueError, StructError):  # 7
            return _MASTER_LAYER
        if expires_ms < now_ms:  # 8
            return _EXPIRED
        try:
            site_layer = site_ciphers[site_key_id](site_iv, master_layer[site_ciphertext], None)
        except KeyError:  # 9
            return _SITE_KEY_UNKNOWN
        except (InvalidTag, ValueError):  # 10
            return _SITE_LAYER
        if len(site_layer) < min_site_layer_length:
            return _SITE_LAYER
        site_id, privacy_bits, established_ms = unpack_site_layer(site_layer)
        if privacy_bits & bits_to_check:  # 11
            failure = _check_domain(domain, site_id, keys)
            if failure is not None:
                return failure
        if expires_ms - generated_ms > max_lifetime_ms:  # 12
            return _LIFETIME_TOO_LONG
        if generated_ms - now_ms > clock_skew_ms:
            return _GENERATED_IN_FUTURE
        return _SUCCESS, to_base64(site_layer[raw_uid]), established_ms, None  # 13

    return decrypt_gcm


def _bind_v2(keys: KeySnapshot) -> _DecryptBytes:
    ciphers, parse_site_layer = _CbcCiphers(keys), v2.parse_site_layer
    unpack_token, unpack_master_layer = v2.TOKEN.unpack_from, v2.MASTER_LAYER.unpack_from
    token_iv_and_ciphertext, site_iv_and_ciphertext = v2.TOKEN_IV_AND_CIPHERTEXT, v2.SITE_IV_AND_CIPHERTEXT
    bits_to_check, max_lifetime_ms, _ = _rules_of_use(keys)

    def decrypt_v2(raw: bytes, domain: object, now_ms: int) -> Verdict:
        try:
            _, master_key_id = unpack_token(raw)
            decrypt_master_layer = ciphers[master_key_id]
        except KeyError:  # 6
            return _MASTER_KEY_UNKNOWN
        except StructError:
            return _MASTER_LAYER
        try:
            master_layer = decrypt_master_layer(raw[token_iv_and_ciphertext])
            expires_ms, site_key_id = unpack_master_layer(master_layer)
        except (ValueError, StructError):  # 7
            return _MASTER_LAYER
        if expires_ms < now_ms:  # 8
            return _EXPIRED
        try:
            site_layer = ciphers[site_key_id](master_layer[site_iv_and_ciphertext])
            site_id, raw_uid, privacy_bits, established_ms = parse_site_layer(site_layer)
        except KeyError:  # 9
            return _SITE_KEY_UNKNOWN
        except ValueError:  # 10, UnicodeDecodeError among them
            return _SITE_LAYER
        if privacy_bits & bits_to_check:  # 11
            failure = _check_domain(domain, site_id, keys)
            if failure is not None:
                return failure
        # v2 does not say when it was generated: now stands in its place, and is never in the future.
        if expires_ms - now_ms > max_lifetime_ms:  # 12
            return _LIFETIME_TOO_LONG
        return _SUCCESS, raw_uid, established_ms, None

    return decrypt_v2


class _CbcCiphers(dict[int, Callable[[bytes], bytes]]):
    """Key id -> AES-CBC decrypt function, made on first use; KeyError for an unknown id."""

    def __init__(self, keys: KeySnapshot) -> None:
        super().__init__()
        self._keys = keys.keys

    def __missing__(self, key_id: int) -> Callable[[bytes], bytes]:
        decrypt_layer = self[key_id] = make_cbc_decrypt(self._keys[key_id].secret)
        return decrypt_layer


def _rules_of_use(keys: KeySnapshot) -> tuple[int, float, int]:
    """(privacy bits that ask for a registered domain, longest lifetime in ms, allowed clock skew in ms)."""
    bits_to_check = CLIENT_SIDE_GENERATED if keys.checks_domains else 0
    return bits_to_check, inf if keys.max_lifetime_ms is None else keys.max_lifetime_ms, keys.clock_skew_ms


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
