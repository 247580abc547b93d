"""A second implementation of the verdict, written from the protocol's description: slow and obvious.

The property in test_reference.py holds both to the same answer. Kept apart on purpose: nothing of the package is
imported, keys are looked up in the operator's JSON each time, integers are read one by one, and names are compared by
their IDNA form instead of by the name that it encodes. Only the Public Suffix List
and the character mapping of UTS 46 are shared, because their content is data.
"""

import base64
from functools import cache
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from idna import IDNAError, uts46_remap
from publicsuffixlist import PublicSuffixList


class Answer(NamedTuple):
    status: str
    uid: str | None = None
    established_ms: int | None = None
    reason: str | None = None


class Refused(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.answer = Answer(status, reason=reason)


class Fields(NamedTuple):
    """What the lines behind 10 look at, of whichever version."""

    expires_ms: int
    generated_ms: int
    site_id: int
    privacy_bits: int
    established_ms: int
    uid: str


def reference_verdict(
    token: object, domain: object, response: Any, now_ms: int, *, purpose: str = "bidstream", optouts: Any = None
) -> Answer:
    """Judge by `response`, the operator's decoded JSON, or None for no keys at all; `optouts` as of a vector."""
    try:
        answer = _judge(token, domain, response, now_ms, purpose)
        _check_optouts(answer, response["body"], optouts)
    except Refused as refused:
        return refused.answer
    return answer


def _judge(token: object, domain: object, response: Any, now_ms: int, purpose: str) -> Answer:
    if response is None:  # line 1
        raise Refused("NOT_INITIALIZED", "no_keys")
    body = response["body"]
    if not any(key["expires"] * 1000 > now_ms for key in body["keys"]):  # line 2
        raise Refused("KEYS_NOT_SYNCED", "keys_expired")
    if not isinstance(token, str) or len(token) < 4:  # line 3
        raise Refused("INVALID_PAYLOAD", "not_a_token")
    raw = decode_text(token)
    version = _version(raw)
    if version in {2, 3} and token != base64.b64encode(raw).decode():  # line 3: base64url only where v4 allows it
        raise Refused("INVALID_PAYLOAD", "bad_encoding")
    fields = _read_v2(raw, body, now_ms) if version == 2 else _read_v3_or_v4(raw, body, now_ms)
    if purpose == "bidstream":
        _check_domain(fields, domain, body)
    _check_lifetime(fields, body, now_ms, purpose)
    if fields.privacy_bits & 0b100:  # line 13
        raise Refused("USER_OPTED_OUT", "opted_out_at_generation")
    return Answer("SUCCESS", fields.uid, fields.established_ms)  # line 14


def decode_text(token: str) -> bytes:
    """The bytes of one of the four spellings; Refused if it is none."""
    try:
        raw = base64.b64decode(token.replace("-", "+").replace("_", "/") + "==")
    except ValueError:
        raise Refused("INVALID_PAYLOAD", "bad_encoding") from None
    standard, url_safe = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
    if token not in {standard, standard.rstrip("="), url_safe, url_safe.rstrip("=")}:
        raise Refused("INVALID_PAYLOAD", "bad_encoding")
    return raw


def _version(raw: bytes) -> int:
    if raw[0] == 2:  # line 4
        return 2
    if raw[1:2] == b"\x70":
        return 3
    if raw[1:2] == b"\x80":
        return 4
    raise Refused("VERSION_NOT_SUPPORTED", "version_unknown")


def _secret_of(key_id: int, body: Any, reason: str) -> bytes:
    secret = None
    for key in body["keys"]:
        if key["id"] == key_id:
            secret = base64.b64decode(key["secret"])
    if secret is None:
        raise Refused("NOT_AUTHORIZED_FOR_KEY", reason)
    return secret


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=False)


def _time(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _read_v3_or_v4(raw: bytes, body: Any, now_ms: int) -> Fields:
    scope_bit = 1 if body.get("identity_scope") == "EUID" else 0
    if raw[0] >> 4 & 1 != scope_bit:  # line 5; no other bit of the prefix counts
        raise Refused("INVALID_PAYLOAD", "identity_scope")
    if len(raw) < 6:
        raise Refused("INVALID_PAYLOAD", "master_layer")
    master_secret = _secret_of(_number(raw[2:6]), body, "master_key_unknown")  # line 6
    master = _open_gcm(master_secret, raw[6:], "master_layer")  # line 7
    if len(master) < 8 + 8 + 4 + 1 + 4 + 4 + 4 + 12:
        raise Refused("INVALID_PAYLOAD", "master_layer")
    expires_ms = _time(master[0:8])
    if expires_ms < now_ms:  # line 8
        raise Refused("EXPIRED_TOKEN", "expired")
    site_secret = _secret_of(_number(master[29:33]), body, "site_key_unknown")  # line 9
    site = _open_gcm(site_secret, master[33:], "site_layer")  # line 10
    if len(site) < 4 + 8 + 4 + 4 + 8 + 8 + 32:
        raise Refused("INVALID_PAYLOAD", "site_layer")
    return Fields(
        expires_ms=expires_ms,
        generated_ms=_time(master[8:16]),
        site_id=_number(site[0:4]),
        privacy_bits=_number(site[16:20]),
        established_ms=_time(site[20:28]),
        uid=base64.b64encode(site[36:]).decode(),
    )


def _open_gcm(secret: bytes, sealed: bytes, reason: str) -> bytes:
    if len(sealed) < 12 + 16:
        raise Refused("INVALID_PAYLOAD", reason)
    try:
        return AESGCM(secret).decrypt(sealed[:12], sealed[12:], None)
    except InvalidTag:
        raise Refused("INVALID_PAYLOAD", reason) from None


def _read_v2(raw: bytes, body: Any, now_ms: int) -> Fields:
    if len(raw) < 5:
        raise Refused("INVALID_PAYLOAD", "master_layer")
    master_secret = _secret_of(_number(raw[1:5]), body, "master_key_unknown")  # line 6
    master = _open_cbc(master_secret, raw[5:], "master_layer")  # line 7
    if len(master) < 8 + 4:
        raise Refused("INVALID_PAYLOAD", "master_layer")
    expires_ms = _time(master[0:8])
    if expires_ms < now_ms:  # line 8
        raise Refused("EXPIRED_TOKEN", "expired")
    site_secret = _secret_of(_number(master[8:12]), body, "site_key_unknown")  # line 9
    site = _open_cbc(site_secret, master[12:], "site_layer")  # line 10
    if len(site) < 8 or len(site) != 8 + _number(site[4:8]) + 12:
        raise Refused("INVALID_PAYLOAD", "site_layer")
    try:
        uid = site[8:-12].decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("INVALID_PAYLOAD", "site_layer") from None
    return Fields(
        expires_ms=expires_ms,
        generated_ms=now_ms,  # line 12: v2 does not say
        site_id=_number(site[0:4]),
        privacy_bits=_number(site[-12:-8]),
        established_ms=_time(site[-8:]),
        uid=uid,
    )


def _open_cbc(secret: bytes, iv_and_ciphertext: bytes, reason: str) -> bytes:
    iv, ciphertext = iv_and_ciphertext[:16], iv_and_ciphertext[16:]
    if len(ciphertext) == 0 or len(ciphertext) % 16 != 0:
        raise Refused("INVALID_PAYLOAD", reason)
    decryptor = Cipher(AES(secret), CBC(iv)).decryptor()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    length = padded[-1]
    if length == 0 or length > 16 or padded[len(padded) - length :] != bytes([length]) * length:
        raise Refused("INVALID_PAYLOAD", reason)
    return padded[: len(padded) - length]


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False)


def _normalise(name: str) -> str:
    if len(name) > 255:
        return ""
    name = name.strip()
    try:
        name = uts46_remap(name, std3_rules=False)
    except IDNAError:
        name = name.lower()
    name = ".".join(_a_label(label) for label in name.split("."))
    return name.removesuffix(".")


def _a_label(label: str) -> str:
    if label.isascii():
        return label
    encoded = "xn--" + label.encode("punycode").decode("ascii")
    return encoded if len(encoded) <= 63 else label


def _check_domain(fields: Fields, domain: object, body: Any) -> None:
    if fields.privacy_bits & 0b10 == 0:  # line 11
        return
    name = _normalise(domain) if isinstance(domain, str) else ""
    if name == "":
        raise Refused("DOMAIN_NAME_CHECK_FAILED", "domain_missing")
    listed = None
    for site in body.get("site_data") or []:
        if site["id"] == fields.site_id:
            listed = [_normalise(each) for each in site.get("domain_names") or []]
    if listed is None:
        raise Refused("DOMAIN_NAME_CHECK_FAILED", "site_unknown")
    if name not in listed and _suffixes().privatesuffix(name) not in listed:
        raise Refused("DOMAIN_NAME_CHECK_FAILED", "domain_not_listed")


def _check_lifetime(fields: Fields, body: Any, now_ms: int, purpose: str) -> None:
    maximum_s = body.get(f"max_{purpose}_lifetime_seconds")  # line 12
    if maximum_s is not None and fields.expires_ms - fields.generated_ms > maximum_s * 1000:
        raise Refused("INVALID_TOKEN_LIFETIME", "lifetime_too_long")
    skew_s = body.get("allow_clock_skew_seconds")
    if skew_s is None:
        skew_s = 1800
    if fields.generated_ms - now_ms > skew_s * 1000:
        raise Refused("INVALID_TOKEN_LIFETIME", "generated_in_future")


def _check_optouts(answer: Answer, body: Any, optouts: Any) -> None:
    if optouts == "not synced":  # line 13
        raise Refused("OPTOUTS_NOT_SYNCED", "optouts_not_synced")
    programme = body.get("identity_scope") or "UID2"
    if optouts is not None and answer.uid in optouts.get(programme, []):
        raise Refused("USER_OPTED_OUT", "opted_out")
