"""Decryption of an advertising token: (token, domain, snapshot, now_ms) -> verdict.

The checks and their order are those of docs/protocol.md, "The verdict"; the numbers in comments are its lines. No
token raises.

This module is part of the hot path and written for speed. `bind_decrypt` makes closures over a snapshot once, so that a
call finds everything in local variables. A verdict is a plain tuple, which costs a tenth of an instance of the cheapest
class. The verdicts of failures are constants.
tests/core/reference.py is a plain implementation, and a property test compares the two.
"""

from collections.abc import Callable
from math import inf
from typing import TypeAlias

from bidstream_svc.core.crypto import make_cbc_decrypt
from bidstream_svc.core.domains import NameCandidates, is_registered, normalise_domain
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.core.token import CLIENT_SIDE_GENERATED, OPTED_OUT, decode_text, open_token, v2, v3, v4
from bidstream_svc.core.token.text import is_padded_standard

# (status, raw uid or None, established in Unix ms or None, reason or None on SUCCESS)
Verdict: TypeAlias = tuple[DecryptionStatus, str | None, int | None, FailureReason | None]

# (token, domain, now_ms) -> verdict: `decrypt` for one snapshot and one thread.
BoundDecrypt: TypeAlias = Callable[[object, object, int], Verdict]
# (bytes of a token, domain, now_ms) -> verdict: the same for one layout.
_DecryptBytes: TypeAlias = Callable[[bytes, object, int], Verdict]


_SUCCESS = DecryptionStatus.SUCCESS
# The verdict of each reason.
FAILURES: dict[FailureReason, Verdict] = {reason: (reason.status, None, None, reason) for reason in FailureReason}
_NO_KEYS = FAILURES[FailureReason.NO_KEYS]
_KEYS_EXPIRED = FAILURES[FailureReason.KEYS_EXPIRED]
_NOT_A_TOKEN = FAILURES[FailureReason.NOT_A_TOKEN]
_BAD_ENCODING = FAILURES[FailureReason.BAD_ENCODING]
_VERSION_UNKNOWN = FAILURES[FailureReason.VERSION_UNKNOWN]
_DOMAIN_MISSING = FAILURES[FailureReason.DOMAIN_MISSING]
_SITE_UNKNOWN = FAILURES[FailureReason.SITE_UNKNOWN]
_DOMAIN_NOT_LISTED = FAILURES[FailureReason.DOMAIN_NOT_LISTED]
_LIFETIME_TOO_LONG = FAILURES[FailureReason.LIFETIME_TOO_LONG]
_GENERATED_IN_FUTURE = FAILURES[FailureReason.GENERATED_IN_FUTURE]
_OPTED_OUT_AT_GENERATION = FAILURES[FailureReason.OPTED_OUT_AT_GENERATION]

_MIN_TOKEN_CHARACTERS = 4


def decrypt(token: object, domain: object, keys: KeySnapshot | None, now_ms: int) -> Verdict:
    """Decrypt an advertising token out of a bid request.

    Args:
        token: the token's text; anything but a string is INVALID_PAYLOAD.
        domain: the site's domain or the app's bundle id, or None. It is checked only for tokens generated on the
            client side. Case, surrounding whitespace, a trailing dot and subdomains are ignored. A name that is not
            ASCII and its IDNA form are the same name. A name of more than 255 characters counts as missing. A
            `NameCandidates` stands for several names, of which one must be registered.
        keys: the operator's keys, or None before the first were loaded.
        now_ms: the current time, Unix ms.

    Returns:
        (status, raw uid, established in Unix ms, reason). Raw uid and established are None except on SUCCESS, where
        reason is None.
    """
    if keys is None:  # 1
        return _NO_KEYS
    try:
        bound: BoundDecrypt = keys.local.decrypt
    except AttributeError:
        bound = keys.local.decrypt = bind_decrypt(keys)
    return bound(token, domain, now_ms)


def decrypt_without_keys(_token: object, _domain: object, _now_ms: int) -> Verdict:
    """`decrypt` before the first keys were loaded."""
    return _NO_KEYS


def bind_decrypt(keys: KeySnapshot) -> BoundDecrypt:
    """Bind `decrypt` to a snapshot. The result is not thread-safe: the CBC ciphers of v2 are stateful."""
    last_expiry_ms = keys.last_expiry_ms
    decrypt_gcm, decrypt_v2 = _bind_gcm(keys), _bind_v2(keys)
    v2_prefix, v3_version, v4_version = v2.PREFIX, v3.VERSION, v4.VERSION

    def decrypt_text(token: object, domain: object, now_ms: int) -> Verdict:
        if last_expiry_ms <= now_ms:  # 2
            return _KEYS_EXPIRED
        if not isinstance(token, str) or len(token) < _MIN_TOKEN_CHARACTERS:  # 3
            return _NOT_A_TOKEN
        try:
            raw = decode_text(token)
        except ValueError:
            return _BAD_ENCODING
        version = raw[1] if len(raw) > 1 else None  # 4
        if version == v4_version and raw[0] != v2_prefix:
            return decrypt_gcm(raw, domain, now_ms)
        # base64url and missing padding are valid in v4 only.
        if raw[0] == v2_prefix:
            return decrypt_v2(raw, domain, now_ms) if is_padded_standard(token) else _BAD_ENCODING
        if version == v3_version:
            return decrypt_gcm(raw, domain, now_ms) if is_padded_standard(token) else _BAD_ENCODING
        return _VERSION_UNKNOWN

    return decrypt_text


def _bind_gcm(keys: KeySnapshot) -> _DecryptBytes:
    scope_bit = v3.scope_bit(keys.scope)
    master_ciphers, site_ciphers = keys.master_gcm_ciphers, keys.site_gcm_ciphers
    domain_bit, max_lifetime_ms, clock_skew_ms = _rules_of_use(keys)
    noticed_bits = domain_bit | OPTED_OUT

    def decrypt_gcm(raw: bytes, domain: object, now_ms: int) -> Verdict:
        opened = open_token(raw, scope_bit, master_ciphers, site_ciphers, now_ms)
        if not isinstance(opened, tuple):  # 5 to 10
            return FAILURES[opened]
        expires_ms, generated_ms, site_id, privacy_bits, established_ms, raw_uid = opened
        verdict: Verdict = _SUCCESS, raw_uid, established_ms, None  # 14
        if privacy_bits & noticed_bits:
            failure = _check_domain(domain, site_id, keys) if privacy_bits & domain_bit else None  # 11
            if failure is not None:
                return failure
            if privacy_bits & OPTED_OUT:
                verdict = _OPTED_OUT_AT_GENERATION  # 13
        if expires_ms - generated_ms > max_lifetime_ms:  # 12
            return _LIFETIME_TOO_LONG
        if generated_ms - now_ms > clock_skew_ms:
            return _GENERATED_IN_FUTURE
        return verdict

    return decrypt_gcm


def _bind_v2(keys: KeySnapshot) -> _DecryptBytes:
    ciphers = _CbcCiphers(keys)
    domain_bit, max_lifetime_ms, _ = _rules_of_use(keys)
    noticed_bits = domain_bit | OPTED_OUT

    def decrypt_v2(raw: bytes, domain: object, now_ms: int) -> Verdict:
        opened = v2.open_token(raw, ciphers, now_ms)
        if not isinstance(opened, tuple):  # 6 to 10
            return FAILURES[opened]
        expires_ms, site_id, privacy_bits, established_ms, raw_uid = opened
        verdict: Verdict = _SUCCESS, raw_uid, established_ms, None  # 14
        if privacy_bits & noticed_bits:
            failure = _check_domain(domain, site_id, keys) if privacy_bits & domain_bit else None  # 11
            if failure is not None:
                return failure
            if privacy_bits & OPTED_OUT:
                verdict = _OPTED_OUT_AT_GENERATION  # 13
        # v2 has no generation time. The current time takes its place, so it is never in the future.
        if expires_ms - now_ms > max_lifetime_ms:  # 12
            return _LIFETIME_TOO_LONG
        return verdict

    return decrypt_v2


class _CbcCiphers(dict[int, Callable[[bytes], bytes]]):
    """Cache of AES-CBC decrypt functions by key id, filled on first use. An unknown id raises KeyError.

    The functions have state, so only one thread may use a cache.
    """

    def __init__(self, keys: KeySnapshot) -> None:
        super().__init__()
        self._keys = keys.keys

    def __missing__(self, key_id: int) -> Callable[[bytes], bytes]:
        decrypt_layer = self[key_id] = make_cbc_decrypt(self._keys[key_id].secret)
        return decrypt_layer


def _rules_of_use(keys: KeySnapshot) -> tuple[int, float, int]:
    """(privacy bit that requires a registered domain, maximum lifetime in ms, allowed clock skew in ms)."""
    domain_bit = CLIENT_SIDE_GENERATED if keys.checks_domains else 0
    return domain_bit, inf if keys.max_lifetime_ms is None else keys.max_lifetime_ms, keys.clock_skew_ms


def _check_domain(domain: object, site_id: int, keys: KeySnapshot) -> Verdict | None:
    """Check that the site has registered `domain`. Returns the failure, or None."""
    candidates = domain if isinstance(domain, NameCandidates) else None
    name = normalise_domain(domain) if isinstance(domain, str) else ""
    if not name and not candidates:
        return _DOMAIN_MISSING
    try:
        registered = keys.domain_names[site_id]
    except KeyError:
        return _SITE_UNKNOWN
    is_listed = candidates.find(registered) if candidates else is_registered(name, registered)
    return None if is_listed else _DOMAIN_NOT_LISTED
