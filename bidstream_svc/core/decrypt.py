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
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.core.token import CLIENT_SIDE_GENERATED, OPTED_OUT, OpenedToken, decode_text, v2, v3, v4
from bidstream_svc.core.token.text import is_padded_standard

# (status, raw uid or None, established in Unix ms or None, reason or None on SUCCESS)
Verdict: TypeAlias = tuple[DecryptionStatus, str | None, int | None, FailureReason | None]

# (token, domain, now_ms) -> verdict: `decrypt` for one snapshot and one thread.
BoundDecrypt: TypeAlias = Callable[[object, object, int], Verdict]
# text of a token -> its fields if both layers open, else None, which says nothing.
OpenNatively: TypeAlias = Callable[[str], OpenedToken | None]
# (programme, raw uid, now_ms) -> why the raw uid must not be answered, or None if it may. It must not raise.
CheckOptOut: TypeAlias = Callable[[IdentityScope, str, int], FailureReason | None]
# (domain, site id) -> the failure if the site has not registered the domain, or None if it has.
CheckDomain: TypeAlias = Callable[[object, int], Verdict | None]
# (fields of a token, domain, now_ms) -> verdict, opt-outs apart.
Judge: TypeAlias = Callable[[OpenedToken, object, int], Verdict]


_SUCCESS = DecryptionStatus.SUCCESS
# The verdict of each reason.
FAILURES: dict[FailureReason, Verdict] = {reason: (reason.status, None, None, reason) for reason in FailureReason}
_NO_KEYS = FAILURES[FailureReason.NO_KEYS]
_KEYS_EXPIRED = FAILURES[FailureReason.KEYS_EXPIRED]
_NOT_A_TOKEN = FAILURES[FailureReason.NOT_A_TOKEN]
_BAD_ENCODING = FAILURES[FailureReason.BAD_ENCODING]
_EXPIRED = FAILURES[FailureReason.EXPIRED]
_DOMAIN_MISSING = FAILURES[FailureReason.DOMAIN_MISSING]
_SITE_UNKNOWN = FAILURES[FailureReason.SITE_UNKNOWN]
_DOMAIN_NOT_LISTED = FAILURES[FailureReason.DOMAIN_NOT_LISTED]
_LIFETIME_TOO_LONG = FAILURES[FailureReason.LIFETIME_TOO_LONG]
_GENERATED_IN_FUTURE = FAILURES[FailureReason.GENERATED_IN_FUTURE]
_OPTED_OUT_AT_GENERATION = FAILURES[FailureReason.OPTED_OUT_AT_GENERATION]

_MIN_TOKEN_CHARACTERS = 4


def decrypt(
    token: object,
    domain: object,
    keys: KeySnapshot | None,
    now_ms: int,
    check_optout: CheckOptOut | None = None,
) -> Verdict:
    """Decrypt an advertising token out of a bid request.

    Args:
        token: the token's text; anything but a string is INVALID_PAYLOAD.
        domain: the site's domain or the app's bundle id, or None. It is checked only for tokens generated on the
            client side. Case, surrounding whitespace, a trailing dot and subdomains are ignored. A name that is not
            ASCII and its IDNA form are the same name. A name of more than 255 characters counts as missing. A
            `NameCandidates` stands for several names, of which one must be registered.
        keys: the operator's keys, or None before the first were loaded.
        now_ms: the current time, Unix ms.
        check_optout: looks up whether the user has opted out; it is called last, with the raw uid of a good token.

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
    verdict = bound(token, domain, now_ms)
    return verdict if check_optout is None else _unless_opted_out(verdict, keys.scope, now_ms, check_optout)


def decrypt_without_keys(_token: object, _domain: object, _now_ms: int) -> Verdict:
    """`decrypt` before the first keys were loaded."""
    return _NO_KEYS


def bind_decrypt(
    keys: KeySnapshot, open_natively: OpenNatively | None = None, check_optout: CheckOptOut | None = None
) -> BoundDecrypt:
    """Bind `decrypt` to a snapshot. The result is not thread-safe: the CBC ciphers of v2 are stateful.

    Args:
        keys: the snapshot.
        open_natively: `Kernel.open` of the same snapshot, which takes a third of the time; None if there is no kernel.
        check_optout: as of `decrypt`.
    """
    last_expiry_ms = keys.last_expiry_ms
    open_bytes, judge = bind_open(keys), bind_judge(keys, bind_check_domain(keys))

    def decrypt_text(token: object, domain: object, now_ms: int) -> Verdict:
        if last_expiry_ms <= now_ms:  # 2
            return _KEYS_EXPIRED
        if not isinstance(token, str) or len(token) < _MIN_TOKEN_CHARACTERS:  # 3
            return _NOT_A_TOKEN
        opened = None if open_natively is None else open_natively(token)
        if opened is None:
            try:
                raw = decode_text(token)
            except ValueError:
                return _BAD_ENCODING
            found = open_bytes(raw, token, now_ms)
            if not isinstance(found, tuple):  # 4 to 10
                return FAILURES[found]
            opened = found
        return judge(opened, domain, now_ms)

    if check_optout is None:
        return decrypt_text
    scope = keys.scope

    def decrypt_unless_opted_out(token: object, domain: object, now_ms: int) -> Verdict:
        return _unless_opted_out(decrypt_text(token, domain, now_ms), scope, now_ms, check_optout)

    return decrypt_unless_opted_out


def _unless_opted_out(verdict: Verdict, scope: IdentityScope, now_ms: int, check_optout: CheckOptOut) -> Verdict:
    """Return a verdict, or the failure if its raw uid must not be answered."""
    raw_uid = verdict[1]
    reason = None if raw_uid is None else check_optout(scope, raw_uid, now_ms)  # 13
    return verdict if reason is None else FAILURES[reason]


def bind_open(keys: KeySnapshot) -> Callable[[bytes, str, int], OpenedToken | FailureReason]:
    """Bind the function that decrypts both layers: (bytes of a token, its text, now_ms) -> its fields."""
    scope_bit = v3.scope_bit(keys.scope)
    master_ciphers, site_ciphers, cbc_ciphers = keys.master_gcm_ciphers, keys.site_gcm_ciphers, _CbcCiphers(keys)
    v2_prefix, v3_version, v4_version = v2.PREFIX, v3.VERSION, v4.VERSION

    def open_bytes(raw: bytes, token: str, now_ms: int) -> OpenedToken | FailureReason:
        version = raw[1] if len(raw) > 1 else None  # 4
        if version == v4_version and raw[0] != v2_prefix:
            return v3.open_token(raw, scope_bit, master_ciphers, site_ciphers, now_ms)
        # base64url and missing padding are valid in v4 only.
        if raw[0] == v2_prefix:
            return v2.open_token(raw, cbc_ciphers, now_ms) if is_padded_standard(token) else FailureReason.BAD_ENCODING
        if version == v3_version:
            if not is_padded_standard(token):
                return FailureReason.BAD_ENCODING
            return v3.open_token(raw, scope_bit, master_ciphers, site_ciphers, now_ms)
        return FailureReason.VERSION_UNKNOWN

    return open_bytes


def bind_judge(keys: KeySnapshot, check_domain: CheckDomain) -> Judge:
    """Bind the function that checks the fields of a token."""
    domain_bit = CLIENT_SIDE_GENERATED if keys.checks_domains else 0
    max_lifetime_ms = inf if keys.max_lifetime_ms is None else keys.max_lifetime_ms
    clock_skew_ms = keys.clock_skew_ms
    noticed_bits = domain_bit | OPTED_OUT

    def judge(opened: OpenedToken, domain: object, now_ms: int) -> Verdict:
        expires_ms, generated_ms, site_id, privacy_bits, established_ms, raw_uid = opened
        if expires_ms < now_ms:  # 8
            return _EXPIRED
        verdict: Verdict = _SUCCESS, raw_uid, established_ms, None  # 14
        if privacy_bits & noticed_bits:
            failure = check_domain(domain, site_id) if privacy_bits & domain_bit else None  # 11
            if failure is not None:
                return failure
            if privacy_bits & OPTED_OUT:
                verdict = _OPTED_OUT_AT_GENERATION  # 13
        if generated_ms is None:  # v2; the current time takes its place, so it is never in the future
            return _LIFETIME_TOO_LONG if expires_ms - now_ms > max_lifetime_ms else verdict
        if expires_ms - generated_ms > max_lifetime_ms:  # 12
            return _LIFETIME_TOO_LONG
        if generated_ms - now_ms > clock_skew_ms:
            return _GENERATED_IN_FUTURE
        return verdict

    return judge


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


def bind_check_domain(keys: KeySnapshot) -> CheckDomain:
    """Bind the function that checks whether a site has registered a domain."""

    def check_domain(domain: object, site_id: int) -> Verdict | None:
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

    return check_domain
