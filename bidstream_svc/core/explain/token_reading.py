"""Reads a token as far as the keys go, whatever its verdict: an explanation shows more than decides."""

from collections.abc import Sequence
from dataclasses import dataclass

from bidstream_svc.core.decrypt import bind_open
from bidstream_svc.core.explain.token_shape import version_of
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.programmes import Programme, first_usable
from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.token import CLIENT_SIDE_GENERATED, decode_text, v3
from bidstream_svc.core.token_details import TokenDetails, read_details

_LONG_AGO_MS = -(2**63)  # no token has expired then
_MASTER_KEY_ID_V2, _MASTER_KEY_ID_V3 = slice(1, 5), slice(2, 6)


@dataclass(frozen=True, slots=True, repr=False)
class Reading:
    """What was read of a token. What could not be read is None.

    Attributes:
        keys: those of the programme that judges the token.
        raw: its bytes.
        version: 2, 3 or 4.
        told_scope: the programme in its first byte, which version 2 does not have.
        master_key_id: in its head.
        details: of its master layer.
        generated_ms, site_id, is_client_side: of tokens whose both layers decrypt. Version 2 has no `generated_ms`.
        opens: whether both layers decrypt.
    """

    keys: KeySnapshot | None
    raw: bytes | None = None
    version: int | None = None
    told_scope: IdentityScope | None = None
    master_key_id: int | None = None
    details: TokenDetails | None = None
    generated_ms: int | None = None
    site_id: int | None = None
    is_client_side: bool | None = None
    opens: bool = False


def judging_keys(
    programmes: Sequence[Programme], scope: IdentityScope | None, now_ms: int, requested: IdentityScope | None
) -> KeySnapshot | None:
    """Return the keys that judge a token of a programme, None for one that nothing tells, as `bind_programmes` does."""
    named = requested if scope is None else scope
    of_scope = [programme for programme in programmes if named is not None and programme.known_scope is named]
    return first_usable(of_scope or programmes, now_ms).keys


def read_token(token: object, keys: KeySnapshot | None) -> Reading:
    """Read a token with the keys of the programme that judges it."""
    if not isinstance(token, str):
        return Reading(keys)
    try:
        raw = decode_text(token)
    except ValueError:
        return Reading(keys)
    version = version_of(raw)
    if version is None:
        return Reading(keys, raw)
    told_scope = None if version == 2 else v3.scope_of(raw)  # noqa: PLR2004
    head = raw[_MASTER_KEY_ID_V2 if version == 2 else _MASTER_KEY_ID_V3]  # noqa: PLR2004
    master_key_id = int.from_bytes(head) if len(head) == 4 else None  # noqa: PLR2004 - bytes of a u32
    if keys is None or told_scope not in {None, keys.scope}:
        return Reading(keys, raw, version, told_scope, master_key_id)
    details = read_details(token, keys)
    opened = bind_open(keys)(raw, token, _LONG_AGO_MS)
    if isinstance(opened, FailureReason) or details is None:
        return Reading(keys, raw, version, told_scope, master_key_id, details)
    _, generated_ms, site_id, privacy_bits, _, _ = opened
    is_client_side = bool(privacy_bits & CLIENT_SIDE_GENERATED)
    return Reading(
        keys, raw, version, told_scope, master_key_id, details, generated_ms, site_id, is_client_side, opens=True
    )


def opens_with(token: object, reading: Reading, programmes: Sequence[Programme]) -> IdentityScope | None:
    """Return a programme whose keys open a version 2 token that the judging keys do not open; None if there is none."""
    if reading.version != 2 or reading.keys is None or reading.opens:  # noqa: PLR2004
        return None
    others = [each.keys for each in programmes if each.keys is not None and each.keys is not reading.keys]
    return next((keys.scope for keys in others if read_token(token, keys).opens), None)
