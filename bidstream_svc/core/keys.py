"""Keys, sites, and the immutable snapshot of both that decryption uses."""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from bidstream_svc.core.domains import normalise_domain
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.token import make_gcm_cipher
from bidstream_svc.core.token.v3 import GcmCipher
from bidstream_svc.core.units import MS_PER_S

DEFAULT_CLOCK_SKEW_S = 1800
_ITEMS_PER_STEP = 64  # about 0.1 ms of work
_FREED_PER_STEP = 512
_MAX_EXPIRY_S = 253_402_300_799  # the end of the year 9999: a later time does not fit into dates and metrics

_Item = TypeVar("_Item")
_Int64: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class KeyPurpose(Enum):
    """What keys are fetched for. It selects the maximum token lifetime and whether domains are checked."""

    BIDSTREAM = "bidstream"
    SHARING = "sharing"


class Key(msgspec.Struct, frozen=True, gc=False):
    """An operator's key, decoded from its JSON. Times are Unix seconds.

    Attributes:
        secret: AES key of 16, 24 or 32 bytes.
        keyset_id: the key set that the key belongs to; present in sharing responses only. Without one, a key is not
            used to encrypt.
        site_id: the site that the key belongs to; operators no longer send it.
    """

    key_id: _Int64 = msgspec.field(name="id")
    secret: bytes
    expires_s: _Int64 = msgspec.field(name="expires")
    activates_s: _Int64 | None = msgspec.field(name="activates", default=None)
    keyset_id: _Int64 | None = None
    site_id: _Int64 | None = None

    @property
    def expires_ms(self) -> int:
        """Unix ms, at most the end of the year 9999 and at least as long before 1970."""
        return _expiry_ms(self.expires_s)

    def __repr__(self) -> str:
        """Omit the secret."""
        return f"Key(key_id={self.key_id}, expires_s={self.expires_s}, keyset_id={self.keyset_id})"


decode_names: Callable[[msgspec.Raw], list[str] | None] = msgspec.json.Decoder(list[str] | None).decode


class Site(msgspec.Struct, frozen=True, gc=False):
    """A site and its registered domain and app names: JSON of a list of strings, kept raw until they are needed."""

    site_id: _Int64 = msgspec.field(name="id")
    raw_domain_names: msgspec.Raw = msgspec.field(name="domain_names", default=msgspec.Raw(b"[]"))

    def __repr__(self) -> str:
        """Omit the names."""
        return f"Site(site_id={self.site_id})"

    def domain_names(self) -> frozenset[str]:
        """Decode and normalise the names."""
        return frozenset(map(normalise_domain, decode_names(self.raw_domain_names) or ()))


@dataclass(frozen=True, slots=True)
class Skipped:
    """Malformed elements of a list in a key response, which are not used.

    Attributes:
        count: how many.
        reasons: position and reason of the first few, such as "keys[3]: Object missing required field `secret`". They
            contain no values.
    """

    count: int = 0
    reasons: tuple[str, ...] = ()


NOTHING_SKIPPED = Skipped()


class _GcmCiphers(dict[int, GcmCipher]):
    """Cache of AES-GCM ciphers by key id, filled on first use. An unknown id raises KeyError."""

    def __init__(self, keys: dict[int, Key], reused: dict[int, GcmCipher]) -> None:
        super().__init__()
        self._keys = keys
        self._reused = reused

    def __missing__(self, key_id: int) -> GcmCipher:
        cipher = self[key_id] = self._reused.get(key_id) or make_gcm_cipher(self._keys[key_id].secret)
        return cipher


class _DomainNames(dict[int, frozenset[str]]):
    """Cache of registered names by site id, filled on first use. A site without `site_data` raises KeyError."""

    def __init__(self, sites: dict[int, Site]) -> None:
        super().__init__()
        self._sites = sites

    def __repr__(self) -> str:
        """Omit the names."""
        return f"_DomainNames({len(self)} of {len(self._sites)} sites read)"

    def __missing__(self, site_id: int) -> frozenset[str]:
        names = self[site_id] = self._sites[site_id].domain_names()
        return names


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class KeySnapshot:
    """The keys, sites and rules of one key response.

    Treat it as immutable: only its caches change. Any thread may use it.

    Attributes:
        keys: by key id.
        sites: by site id; empty if the operator sends no `site_data`.
        scope: the programme whose tokens these keys decrypt.
        checks_domains: whether a token generated on the client side needs a registered domain or app name.
        max_lifetime_ms: maximum lifetime of a token; None for no limit.
        clock_skew_ms: how far in the future a token may have been generated.
        caller_site_id, master_keyset_id, default_keyset_id, token_expiry_s: sharing responses only, else None.
        skipped_keys, skipped_sites: what was malformed in the response. A malformed name counts as a malformed site
            does, but only the name is skipped.
        last_expiry_ms: Unix ms at which the last key expires; 0 without keys, at most the end of the year 9999.
        master_gcm_ciphers, site_gcm_ciphers: ciphers by key id for that layer; an unknown id raises KeyError. An entry
            exists for each key id that a token has used since this snapshot came into use.
        reused_gcm_ciphers: ciphers by key id that `reuse_from` copied, for either layer.
        domain_names: normalised names by site id; an unknown site raises KeyError.
        local: per-thread storage for what is derived from this snapshot.
    """

    keys: dict[int, Key]
    sites: dict[int, Site]
    scope: IdentityScope
    checks_domains: bool
    max_lifetime_ms: int | None
    clock_skew_ms: int
    caller_site_id: int | None = None
    master_keyset_id: int | None = None
    default_keyset_id: int | None = None
    token_expiry_s: int | None = None
    skipped_keys: Skipped = NOTHING_SKIPPED
    skipped_sites: Skipped = NOTHING_SKIPPED

    last_expiry_ms: int = field(init=False)
    reused_gcm_ciphers: dict[int, GcmCipher] = field(init=False, default_factory=dict)
    master_gcm_ciphers: _GcmCiphers = field(init=False)
    site_gcm_ciphers: _GcmCiphers = field(init=False)
    domain_names: _DomainNames = field(init=False)
    local: threading.local = field(init=False, default_factory=threading.local)

    def __post_init__(self) -> None:
        """Derive the rest."""
        last_expiry_s = max((key.expires_s for key in self.keys.values()), default=0)
        self.last_expiry_ms = _expiry_ms(last_expiry_s)
        self.master_gcm_ciphers = _GcmCiphers(self.keys, self.reused_gcm_ciphers)
        self.site_gcm_ciphers = _GcmCiphers(self.keys, self.reused_gcm_ciphers)
        self.domain_names = _DomainNames(self.sites)

    def __repr__(self) -> str:
        """Show counts only."""
        return f"KeySnapshot({self.scope.name}, {len(self.keys)} keys, {len(self.sites)} sites)"

    def reuse_from(self, previous: "KeySnapshot") -> Iterator[None]:
        """Copy the cached ciphers and names of unchanged keys and sites; yields between short steps.

        Without this, the first requests after a refresh would make a thousand ciphers again.
        """
        for ciphers in (previous.reused_gcm_ciphers, previous.master_gcm_ciphers, previous.site_gcm_ciphers):
            for step in split_into_steps(tuple(ciphers)):  # a copy: other threads add to the cache
                self.reused_gcm_ciphers.update(
                    (key_id, ciphers[key_id]) for key_id in step if self._has_secret_of(previous.keys[key_id])
                )
                yield
        for sites_step in split_into_steps(tuple(previous.domain_names)):
            self.domain_names.update(
                (site_id, previous.domain_names[site_id])
                for site_id in sites_step
                if self.sites.get(site_id) == previous.sites[site_id]
            )
            yield

    def shares_keys_with(self, other: "KeySnapshot") -> bool:
        """Whether a key has the same id and secret in both."""
        return any(self._has_secret_of(key) for key in tuple(other.keys.values()))

    def _has_secret_of(self, other: Key) -> bool:
        key = self.keys.get(other.key_id)
        return key is not None and key.secret == other.secret


def free_in_steps(snapshot: KeySnapshot | None) -> Generator[None, None, None]:
    """Free a snapshot that was replaced; yields between short steps. Nothing else may hold it when they begin.

    Dropping the last reference frees tens of thousands of objects at once, and blocks other threads for milliseconds.
    """
    if snapshot is None:
        return
    # What threads derived refers to the snapshot. Left in that cycle, it would be freed by the garbage collector: all
    # at once, and perhaps in the thread that serves.
    snapshot.local = threading.local()
    held: list[Mapping[int, object]] = [
        snapshot.keys,
        snapshot.sites,
        snapshot.reused_gcm_ciphers,
        snapshot.master_gcm_ciphers,
        snapshot.site_gcm_ciphers,
        snapshot.domain_names,
    ]
    del snapshot
    while held:
        values = list(held.pop().values())  # keeps them when their dictionary is freed
        while values:
            yield
            del values[-_FREED_PER_STEP:]


def split_into_steps(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Split a sequence into slices that each take about 0.1 ms to process, so that a caller can pause in between."""
    return (items[start : start + _ITEMS_PER_STEP] for start in range(0, len(items), _ITEMS_PER_STEP))


def _expiry_ms(expires_s: int) -> int:
    return max(-_MAX_EXPIRY_S, min(expires_s, _MAX_EXPIRY_S)) * MS_PER_S
