"""Keys, sites and the immutable snapshot of both that one key response becomes.

A response may hold thousands of keys and tens of thousands of domain names, and one call into C keeps every other
thread waiting until it returns. So the first call only finds where each key and site is; keys are then read one by
one, in steps between which whoever parses may pause; each site's names stay raw JSON until a token of that site asks;
ciphers are made when first used, and those of AES-GCM kept through later snapshots while the key is the same.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from enum import Enum
from typing import Any, TypeVar

import msgspec

from bidstream_svc.core.crypto import AES_KEY_LENGTHS
from bidstream_svc.core.domains import normalise_domain
from bidstream_svc.core.errors import KeyResponseError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.token import make_gcm_cipher
from bidstream_svc.core.token.v3 import GcmCipher

DEFAULT_CLOCK_SKEW_S = 1800
_MS_PER_S = 1000
_ITEMS_A_STEP = 64  # which take about 0.1 ms

_Item = TypeVar("_Item")


class KeyPurpose(Enum):
    """What keys were fetched for; it decides which maximum lifetime holds and whether domains are checked."""

    BIDSTREAM = "bidstream"
    SHARING = "sharing"


class Key(msgspec.Struct, frozen=True, gc=False):
    """One key of the operator, as its JSON names it; times are Unix seconds.

    Attributes:
        keyset_id: the key set it belongs to; only responses for sharing carry it.
    """

    key_id: int = msgspec.field(name="id")
    secret: bytes
    expires_s: int = msgspec.field(name="expires")
    activates_s: int | None = msgspec.field(name="activates", default=None)
    created_s: int | None = msgspec.field(name="created", default=None)
    keyset_id: int | None = None

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Key(key_id={self.key_id}, expires_s={self.expires_s}, keyset_id={self.keyset_id})"


class Site(msgspec.Struct, frozen=True, gc=False):
    """A site and the domain and app names it has registered, not yet looked into."""

    site_id: int = msgspec.field(name="id")
    raw_domain_names: msgspec.Raw = msgspec.field(name="domain_names", default=msgspec.Raw(b"[]"))

    def __repr__(self) -> str:
        """Without the names."""
        return f"Site(site_id={self.site_id})"

    def domain_names(self) -> frozenset[str]:
        """The names, normalised; empty where the operator sent no list of strings."""
        try:
            names = msgspec.json.decode(self.raw_domain_names, type=list[str] | None)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return frozenset()
        return frozenset(map(normalise_domain, names or ()))


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
    token_expiry_seconds: int | str | None = None  # the operator sends either


class _Response(msgspec.Struct):
    body: _Body


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_list_or_null = msgspec.json.Decoder(list[msgspec.Raw] | None).decode
_decode_key = msgspec.json.Decoder(Key).decode
_decode_site = msgspec.json.Decoder(Site).decode


class _GcmCiphers(dict[int, GcmCipher]):
    """Key id -> AES-GCM cipher, on first use made or taken out of `kept`; KeyError for an unknown id."""

    def __init__(self, keys: dict[int, Key], kept: dict[int, GcmCipher]) -> None:
        super().__init__()
        self._keys = keys
        self._kept = kept

    def __missing__(self, key_id: int) -> GcmCipher:
        cipher = self[key_id] = self._kept.get(key_id) or make_gcm_cipher(self._keys[key_id].secret)
        return cipher


class _DomainNames(dict[int, frozenset[str]]):
    """Site id -> its names, read on first use; KeyError for a site without `site_data`."""

    def __init__(self, sites: dict[int, Site]) -> None:
        super().__init__()
        self._sites = sites

    def __repr__(self) -> str:
        """Without the names."""
        return f"_DomainNames({len(self)} of {len(self._sites)} sites read)"

    def __missing__(self, site_id: int) -> frozenset[str]:
        names = self[site_id] = self._sites[site_id].domain_names()
        return names


class KeySnapshot:
    """Everything that decrypting needs of one key response. Treat as immutable; look-ups fill caches, no more.

    Attributes:
        scope: the programme whose tokens these keys open.
        keys: by key id.
        sites: by site id; empty where client-side generation is off.
        last_expiry_ms: Unix ms at which the last key expires; 0 without keys.
        max_lifetime_ms: how long a token may live; None for no limit.
        checks_domains: whether a token generated on the client side needs a registered domain or app name.
        clock_skew_ms: how far in the future a token may have been made.
        master_gcm_ciphers, site_gcm_ciphers: key id -> cipher for that layer, for any thread; KeyError for an unknown
            id. They hold the keys that tokens have named since this snapshot is in use.
        kept_gcm_ciphers: what `take_over` found made already, by key id and for either layer.
        domain_names: site id -> normalised names; KeyError for an unknown site.
        caller_site_id, master_keyset_id, default_keyset_id, token_expiry_s: of responses for sharing, or None.
        local: a place for each thread to keep what it makes of this snapshot.
    """

    __slots__ = (
        "caller_site_id",
        "checks_domains",
        "clock_skew_ms",
        "default_keyset_id",
        "domain_names",
        "kept_gcm_ciphers",
        "keys",
        "last_expiry_ms",
        "local",
        "master_gcm_ciphers",
        "master_keyset_id",
        "max_lifetime_ms",
        "scope",
        "site_gcm_ciphers",
        "sites",
        "token_expiry_s",
    )

    def __init__(self, body: _Body, keys: dict[int, Key], sites: dict[int, Site], purpose: KeyPurpose) -> None:
        self.scope = _scope(body.identity_scope)
        self.keys = keys
        self.sites = sites
        self.last_expiry_ms = max((key.expires_s for key in self.keys.values()), default=0) * _MS_PER_S
        self.checks_domains = purpose is KeyPurpose.BIDSTREAM
        lifetime_s = body.max_bidstream_lifetime_seconds if self.checks_domains else body.max_sharing_lifetime_seconds
        self.max_lifetime_ms = None if lifetime_s is None else lifetime_s * _MS_PER_S
        skew_s = body.allow_clock_skew_seconds
        self.clock_skew_ms = (DEFAULT_CLOCK_SKEW_S if skew_s is None else skew_s) * _MS_PER_S
        self.kept_gcm_ciphers: dict[int, GcmCipher] = {}
        self.master_gcm_ciphers = _GcmCiphers(self.keys, self.kept_gcm_ciphers)
        self.site_gcm_ciphers = _GcmCiphers(self.keys, self.kept_gcm_ciphers)
        self.domain_names = _DomainNames(self.sites)
        self.local = threading.local()
        self.caller_site_id = body.caller_site_id
        self.master_keyset_id = body.master_keyset_id
        self.default_keyset_id = body.default_keyset_id
        self.token_expiry_s = _to_int(body.token_expiry_seconds)

    def __repr__(self) -> str:
        """Counts only."""
        return f"KeySnapshot({self.scope.name}, {len(self.keys)} keys, {len(self.sites)} sites)"

    def take_over(self, previous: "KeySnapshot") -> Iterator[None]:
        """Keep what `previous` made of keys and sites that are the same here; yields between steps.

        Made anew on first use, a thousand ciphers would slow down the requests that follow a refresh.
        """
        for theirs in (previous.kept_gcm_ciphers, previous.master_gcm_ciphers, previous.site_gcm_ciphers):
            for made in _steps(tuple(theirs.items())):  # a copy: tokens go on adding to it
                self.kept_gcm_ciphers.update(
                    (key_id, cipher) for key_id, cipher in made if self._has_secret_of(previous.keys[key_id])
                )
                yield
        for read in _steps(tuple(previous.domain_names.items())):
            self.domain_names.update(
                (site_id, names) for site_id, names in read if self.sites.get(site_id) == previous.sites[site_id]
            )
            yield

    def _has_secret_of(self, other: Key) -> bool:
        key = self.keys.get(other.key_id)
        return key is not None and key.secret == other.secret


def parse_key_response(response: bytes | str, purpose: KeyPurpose = KeyPurpose.BIDSTREAM) -> KeySnapshot:
    """Read the JSON of /v2/key/bidstream or /v2/key/sharing, `{"body": {...}}`.

    Raises:
        KeyResponseError: not JSON, a field is missing or of another type, or a secret cannot be an AES key.
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
    """`parse_key_response` with a yield wherever a pause is due that lets other threads compute.

    Args:
        response: as for `parse_key_response`.
        purpose: likewise.
        previous: the keys in use; what was made of those that are still the same is taken over.
    """
    body = _decoded(_decode_response, response).body
    yield
    raw_keys = _decoded(_decode_list, body.keys, "keys")
    yield
    keys: dict[int, Key] = {}
    for some in _steps(range(len(raw_keys))):
        for index in some:
            key = _decoded(_decode_key, raw_keys[index], "keys", index)
            if len(key.secret) not in AES_KEY_LENGTHS:
                raise KeyResponseError(f"key response: the secret of key {key.key_id} is no AES key")
            keys[key.key_id] = key
        yield
    raw_sites = _decoded(_decode_list_or_null, body.site_data, "site_data") or []
    yield
    sites: dict[int, Site] = {}
    for few in _steps(range(len(raw_sites))):
        for index in few:
            site = _decoded(_decode_site, raw_sites[index], "site_data", index)
            sites[site.site_id] = site
        yield
    snapshot = KeySnapshot(body, keys, sites, purpose)
    if previous is not None:
        yield from snapshot.take_over(previous)
    return snapshot


def _steps(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[start : start + _ITEMS_A_STEP] for start in range(0, len(items), _ITEMS_A_STEP))


def _decoded(
    decode: Callable[[Any], _Item], data: bytes | str | msgspec.Raw, name: str = "", index: int | None = None
) -> _Item:
    try:
        return decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # msgspec names the field and what it expected there, never a value.
        where = f"{name}: " if index is None else f"{name}[{index}]: "
        raise KeyResponseError(f"key response: {where if name else ''}{error}") from None


def _scope(name: str | None) -> IdentityScope:
    try:
        return IdentityScope["UID2" if name is None else name]
    except KeyError:
        raise KeyResponseError("key response: identity_scope is neither UID2 nor EUID") from None


def _to_int(number: int | str | None) -> int | None:
    try:
        return None if number is None else int(number)
    except ValueError:
        raise KeyResponseError("key response: token_expiry_seconds is not a number") from None
