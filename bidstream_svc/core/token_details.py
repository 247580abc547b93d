"""What a token says beside its verdict: version, site, identity type, expiry.

For callers who ask for it, after `decrypt`. Nothing here judges a token: what is not known of it is None.
"""

from collections.abc import Callable
from typing import NamedTuple

from bidstream_svc.core.identity import IdentityType
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.token import CLIENT_SIDE_GENERATED, OpenedToken, decode_text, v2, v3, v4

_PREFIX_OF_V2 = bytes([v2.PREFIX])
_HEAD_CHARACTERS = 8  # six bytes: prefix, version but in v2, master key id
_VERSIONS = {bytes([v3.VERSION]): 3, bytes([v4.VERSION]): 4}


class TokenDetails(NamedTuple):
    """What was read of a token.

    Attributes:
        version: 2, 3 or 4.
        identity_type: what the raw uid was derived from, as the unauthenticated first byte says; None in version 2,
            which does not say so.
        expires_ms: Unix ms.
        site_key_id: id of the key of the site layer, which may be unknown.
        site_id: the site that the token was issued for, or None if the site layer was not decrypted.
        is_client_side_generated: None if the site layer was not decrypted.
    """

    version: int
    identity_type: IdentityType | None
    expires_ms: int
    site_key_id: int
    site_id: int | None = None
    is_client_side_generated: bool | None = None


def read_details(token: object, keys: KeySnapshot | None) -> TokenDetails | None:
    """Read a token, valid or not. Returns None if its master layer cannot be decrypted with these keys."""
    if keys is None or not isinstance(token, str):
        return None
    try:
        raw = decode_text(token)
    except ValueError:
        return None
    if raw[:1] == _PREFIX_OF_V2:
        version, identity_type, read_fields = 2, None, v2.read_fields
    elif raw[1:2] in _VERSIONS:
        version, identity_type, read_fields = _VERSIONS[raw[1:2]], v3.identity_type_of(raw), v3.read_fields
    else:
        return None
    fields = read_fields(raw, lambda key_id: keys.keys[key_id].secret)
    if fields is None:
        return None
    expires_ms, site_key_id, site_layer = fields
    if site_layer is None:
        return TokenDetails(version, identity_type, expires_ms, site_key_id)
    site_id, privacy_bits = site_layer
    is_client_side = bool(privacy_bits & CLIENT_SIDE_GENERATED)
    return TokenDetails(version, identity_type, expires_ms, site_key_id, site_id, is_client_side)


def read_unknown_key_id(token: object, keys: KeySnapshot | None) -> int | None:
    """Read the id of the key that a token names and `keys` do not have. Returns None if there is none such.

    It is the id of the master key, or if that is there, of the site key. Only for the latter, a layer is decrypted.
    """
    if keys is None or not isinstance(token, str):
        return None
    try:
        head = decode_text(token[:_HEAD_CHARACTERS])
    except ValueError:
        return None
    is_v2 = head[:1] == _PREFIX_OF_V2
    master_key_id = int.from_bytes(head[1:5] if is_v2 else head[2:6])
    if master_key_id not in keys.keys:
        return master_key_id if is_v2 or head[1:2] in _VERSIONS else None
    details = read_details(token, keys)
    return None if details is None or details.site_key_id in keys.keys else details.site_key_id


def read_site_id(
    token: str, keys: KeySnapshot | None, open_natively: Callable[[str], OpenedToken | None] | None
) -> int | None:
    """Read the site of a token, valid or not. Returns None if a layer cannot be decrypted with these keys.

    Args:
        token: its text.
        keys: the keys of its programme.
        open_natively: `Kernel.open` of the same keys, which takes a tenth of the time; None if there is no kernel.
    """
    opened = None if open_natively is None else open_natively(token)
    if opened is not None:
        return opened[2]
    details = read_details(token, keys)
    return None if details is None else details.site_id
