"""The state of the embedded operator: credentials, sites, keys, salts, opt-outs. A seed makes it deterministic."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.crypto import CBC_BLOCK_LENGTH, GCM_IV_LENGTH
from bidstream_svc.core.identity import Identity, IdentityScope
from bidstream_svc.core.token import BUILDERS, CLIENT_SIDE_GENERATED, TokenContent, TokenKey
from bidstream_svc.core.token import OPTED_OUT as OPTED_OUT_BIT
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.devoperator.client_side_keys import make_client_side_keys
from bidstream_svc.devoperator.clients import ALL_ROLES, ApiClients, Role
from bidstream_svc.devoperator.faults import Faults
from bidstream_svc.devoperator.key_ring import MASTER_KEYSET_ID, KeyRing, OperatorKey
from bidstream_svc.devoperator.salts import Salts
from bidstream_svc.devoperator.well_known import OPTED_OUT_ON_REFRESH_USERS, OPTED_OUT_USERS, identity_of

_FIRST_SITE_KEYSET_ID = 2
_ALWAYS_SET = 0x1  # a privacy bit without a meaning
_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S


@dataclass(frozen=True, slots=True)
class OperatorSite:
    """A site.

    Attributes:
        site_id: its id.
        domain_names: domains and app names; without them it has no `site_data`, and its client-side tokens fail the
            domain check.
        shares_with: ids of the sites whose sharers get its keys. Bidders get them in any case.
    """

    site_id: int
    domain_names: tuple[str, ...] | None = None
    shares_with: frozenset[int] = frozenset()


# The first is the caller's site.
DEFAULT_SITES = (
    OperatorSite(101, ("example.com", "example.org")),
    OperatorSite(102, ("com.example.app", "123456789"), frozenset({101})),
    OperatorSite(103),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """Lifetimes in seconds. None for a limit: the key response does not contain it."""

    token_s: int = 4 * _HOUR_S
    refresh_after_s: int = _HOUR_S
    refresh_token_s: int = 30 * _DAY_S
    sharing_token_s: int = 30 * _DAY_S
    max_bidstream_s: int | None = 3 * _DAY_S
    max_sharing_s: int | None = 90 * _DAY_S
    clock_skew_s: int | None = 1800
    key_s: int = 365 * _DAY_S  # there is no automatic rotation


class OperatorState:
    """The state that the operator serves. It may be changed while it is served.

    With a seed, credentials, keys, salts and raw uids are deterministic, whatever requests come in between. Tokens and
    envelopes are not: their ivs are always random, because reusing an iv with the same key breaks AES-GCM.

    Args:
        seed: makes the state deterministic; None for random.
        scope: the operator's programme.
        now_ms: the clock, Unix ms.
        sites: the participants; the first is the caller's site. Each has a key set.
        lifetimes: lifetimes of tokens and keys.
        token_version: the version of tokens from /v2/token/generate: 2, 3 or 4.
        roles: roles of the main API key.

    Attributes:
        clients: all API keys; see ApiClients.
        client_side: the key pair of the caller's site for /v2/token/client-generate.
        sites: by site id.
        caller_site_id: the site of the API keys.
        keys, salts: see KeyRing and Salts.
        faults: see Faults.
        calls: number of requests by path.
        opted_out_since_ms: time of the opt-out by identity, Unix ms.
        optout_on_refresh: identities that are opted out for refreshes only.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        scope: IdentityScope = IdentityScope.UID2,
        now_ms: Callable[[], int] = wall_clock_ms,
        sites: Sequence[OperatorSite] = DEFAULT_SITES,
        lifetimes: Lifetimes | None = None,
        token_version: int = 4,
        roles: Collection[Role] = ALL_ROLES,
    ) -> None:
        self._seed = seed
        self.scope = scope
        self.now_ms = now_ms
        self.sites = {site.site_id: site for site in sites}
        self.caller_site_id = sites[0].site_id
        self.lifetimes = lifetimes or Lifetimes()
        self.token_version = token_version
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.clients = ApiClients(
            self._randomness("credentials"),
            self._randomness("other credentials"),
            prefix=f"{scope.name}-C-L-",
            site_id=self.caller_site_id,
            roles=roles,
        )
        self.client_side = make_client_side_keys(self._randomness("client side"), scope)
        self.refresh_token_key = self._randomness("refresh tokens")(32)
        self._keyset_ids = {site_id: _FIRST_SITE_KEYSET_ID + number for number, site_id in enumerate(self.sites)}
        self._site_ids = {keyset_id: site_id for site_id, keyset_id in self._keyset_ids.items()}
        keyset_ids = (MASTER_KEYSET_ID, *self._site_ids)
        self.keys = KeyRing(self._randomness("keys"), keyset_ids, self.lifetimes.key_s, self.now_s())
        self.salts = Salts(self._randomness("salts"), scope, now_ms())
        self.opted_out_since_ms = dict.fromkeys(map(identity_of, OPTED_OUT_USERS), now_ms())
        self.optout_on_refresh = set(map(identity_of, OPTED_OUT_ON_REFRESH_USERS))

    def now_s(self) -> int:
        """Return the clock in whole Unix seconds."""
        return self.now_ms() // MS_PER_S

    def _randomness(self, purpose: str) -> Callable[[int], bytes]:
        # One stream per purpose, so that, for example, a rotation of salts does not affect later keys.
        return os.urandom if self._seed is None else Random(f"{self._seed} {purpose}").randbytes  # noqa: S311 - see seed

    @property
    def api_key(self) -> str:
        """The main API key."""
        return self.clients.main.api_key

    @property
    def client_secret(self) -> str:
        """The client secret of the main API key: base64 of 32 bytes."""
        return self.clients.main.client_secret

    def rotate_credentials(self) -> None:
        """Replace the main API key and its client secret. The old ones are refused from now on."""
        self.clients.rotate_main()

    def rotate_keys(self, *, activates_in_s: int = 0) -> None:
        """Make a new master key and a new key for each site. Old keys stay listed until they expire.

        Args:
            activates_in_s: the new keys are listed at once, and tokens are made with them after this time.
        """
        self.keys.rotate(self.now_s(), activates_in_s=activates_in_s)

    def expire_keys(self) -> None:
        """Expire all keys now. Until the next `rotate_keys`, key responses have no keys."""
        self.keys.expire(self.now_s())

    def rotate_salts(self, identity: str | None = None) -> None:
        """Rotate all salt buckets, or the bucket of one address or number."""
        buckets = self.salts.buckets if identity is None else [self.salts.bucket_of(identity_of(identity))]
        self.salts.rotate(buckets, self.now_ms())

    def opt_out(self, identity: str) -> None:
        """Opt the owner of an address or number out, as of now."""
        self.opted_out_since_ms[identity_of(identity)] = self.now_ms()

    def raw_uid(self, identity: str) -> str:
        """Return the raw uid of an address or number, opted out or not: base64 of 32 or 33 bytes."""
        return self.salts.raw_uid(identity_of(identity))

    def keyset_of(self, site_id: int) -> int:
        """Return the id of the key set of a site.

        Raises:
            KeyError: there is no site with this id.
        """
        return self._keyset_ids[site_id]

    def site_of_keyset(self, keyset_id: int) -> int:
        """Return the id of the site whose key set this is.

        Raises:
            KeyError: no site has this key set.
        """
        return self._site_ids[keyset_id]

    def make_unlisted_key(self) -> OperatorKey:
        """Make a key that no key response lists, for tokens that clients cannot decrypt."""
        return self.keys.make_unlisted(self.now_s())

    def mint_token(  # noqa: PLR0913 - what may be wrong with a token, each by its name
        self,
        version: int = 4,
        *,
        identity: str = "someone@example.com",
        site_id: int | None = None,
        lifetime_s: float | None = None,
        generated_ms: int | None = None,
        established_ms: int | None = None,
        client_side: bool = False,
        opted_out: bool = False,
        master_key: OperatorKey | None = None,
        site_key: OperatorKey | None = None,
    ) -> str:
        """Make a token as /v2/token/generate does, or an invalid one.

        Args:
            version: 2, 3 or 4.
            identity: e-mail address or phone number.
            site_id: defaults to the caller's site.
            lifetime_s: counted from `generated_ms`; negative for an expired token.
            generated_ms: Unix ms; defaults to now.
            established_ms: Unix ms; defaults to `generated_ms`.
            client_side: whether to mark it as generated on the client side.
            opted_out: whether to mark the user as opted out when it was generated.
            master_key: a key to use instead of the current one, such as `make_unlisted_key()`.
            site_key: as `master_key`.
        """
        generated_ms = self.now_ms() if generated_ms is None else generated_ms
        content = self.token_content(
            identity_of(identity),
            site_id=self.caller_site_id if site_id is None else site_id,
            lifetime_s=self.lifetimes.token_s if lifetime_s is None else lifetime_s,
            generated_ms=generated_ms,
            established_ms=generated_ms if established_ms is None else established_ms,
            privacy_bits=(CLIENT_SIDE_GENERATED if client_side else 0) | (OPTED_OUT_BIT if opted_out else 0),
        )
        return self.mint(content, version, master_key=master_key, site_key=site_key)

    def token_content(
        self,
        identity: Identity,
        *,
        site_id: int,
        lifetime_s: float,
        generated_ms: int,
        established_ms: int,
        privacy_bits: int = 0,
    ) -> TokenContent:
        """Return the content of a token for an identity."""
        return TokenContent(
            raw_uid=self.salts.raw_uid(identity),
            site_id=site_id,
            expires_ms=generated_ms + round(lifetime_s * MS_PER_S),
            established_ms=established_ms,
            generated_ms=generated_ms,
            refreshed_ms=generated_ms,
            privacy_bits=privacy_bits | _ALWAYS_SET,
            scope=self.scope,
            identity_type=identity.identity_type,
        )

    def mint(
        self,
        content: TokenContent,
        version: int = 4,
        *,
        master_key: OperatorKey | None = None,
        site_key: OperatorKey | None = None,
    ) -> str:
        """Build a token with any content, under the current keys by default.

        Raises:
            KeyError: unknown version, or unknown site without a `site_key`.
        """
        iv_length = CBC_BLOCK_LENGTH if version == 2 else GCM_IV_LENGTH  # noqa: PLR2004 - v2
        master, site = (
            TokenKey(key.key_id, key.secret, os.urandom(iv_length))
            for key in (
                master_key or self.keys.current(MASTER_KEYSET_ID, self.now_s()),
                site_key or self.keys.current(self.keyset_of(content.site_id), self.now_s()),
            )
        )
        return BUILDERS[version](content, master, site)
