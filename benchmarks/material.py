"""Keys, tokens and prepared requests. Random numbers are seeded, so that they are the same in every run."""

import json
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pybase64

from benchmarks.heads import PLAIN, with_body
from bidstream_svc import DecryptionStatus
from bidstream_svc.core.token import BUILDERS, CLIENT_SIDE_GENERATED, TokenContent, TokenKey

VERSIONS = {f"v{version}": build for version, build in BUILDERS.items()}
_IV_LENGTH = {"v2": 16, "v3": 12, "v4": 12}

DAY_S = 24 * 3600
MASTER_KEY_ID = 1
NOW_S = int(time.time())

# For names of several lengths, directly below a public suffix, as those of publishers are.
_WORDS = ("news", "shop-and-save", "weather", "a-publisher-with-a-long-name", "tv")


@dataclass(frozen=True)
class KeySet:
    """The content of a key response: `keys` keys, and `domains` domain names of `sites` sites."""

    keys: int
    domains: int = 1_000
    domains_a_site: int = 4
    secrets: list[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        random = Random(self.keys)
        object.__setattr__(self, "secrets", [random.randbytes(32) for _ in range(self.keys)])

    @property
    def sites(self) -> int:
        """The number of sites with registered names; their ids start at 1."""
        return max(1, self.domains // self.domains_a_site)

    def domain(self, site_id: int) -> str:
        """Return a name that the site has registered."""
        return self._names(site_id)[-1]

    def _names(self, site_id: int) -> list[str]:
        word = _WORDS[site_id % len(_WORDS)]
        return [f"{word}-{site_id}-{number}.com" for number in range(self.domains_a_site)]

    def key_id(self, index: int) -> int:
        """Return the id of a key. Ids start at 1; key 1 is the master key."""
        return MASTER_KEY_ID + index

    def response(self) -> bytes:
        """Return the key response as the JSON of /v2/key/bidstream."""
        return json.dumps(
            {
                "body": {
                    "keys": [
                        {
                            "id": self.key_id(index),
                            "created": NOW_S - DAY_S,
                            "activates": NOW_S - DAY_S,
                            "expires": NOW_S + 30 * DAY_S,
                            "secret": pybase64.b64encode_as_string(secret),
                        }
                        for index, secret in enumerate(self.secrets)
                    ],
                    "max_bidstream_lifetime_seconds": 30 * DAY_S,
                    "identity_scope": "UID2",
                    "allow_clock_skew_seconds": 1800,
                    "site_data": [{"id": site, "domain_names": self._names(site)} for site in range(1, self.sites + 1)],
                },
                "status": "success",
            }
        ).encode()


@dataclass(frozen=True, slots=True)
class Sample:
    """A token, the domain on which it is used, and the expected verdict."""

    token: str
    domain: str | None
    raw_uid: str | None
    established_ms: int | None
    status: DecryptionStatus = DecryptionStatus.SUCCESS

    def answer(self) -> bytes:
        """Return the verdict as the service sends it."""
        return to_json({"status": self.status, "uid": self.raw_uid, "established": self.established_ms})


class Mint:
    """Makes `count` tokens under the master key of a key set.

    Args:
        key_set: what the tokens are encrypted with.
        count: of tokens, which are numbered from 0.
        sites: the site of each token, which decides the site key; without, both are spread over the whole set in order.
    """

    def __init__(self, key_set: KeySet, count: int, sites: Sequence[int] | None = None) -> None:
        self.key_set = key_set
        self._count = count
        self._sites = sites
        self._random = Random(count)

    def content(self, number: int, *, is_client_side: bool) -> TokenContent:
        """Return the content of the good token with this number; the domain of a client-side one is checked."""
        return TokenContent(
            raw_uid=pybase64.b64encode_as_string(self._random.randbytes(32)),
            site_id=self._site(number),
            expires_ms=(NOW_S + 7 * DAY_S) * 1000,
            generated_ms=(NOW_S - 600) * 1000,
            established_ms=(NOW_S - DAY_S) * 1000 + number,
            refreshed_ms=(NOW_S - 600) * 1000,
            privacy_bits=CLIENT_SIDE_GENERATED if is_client_side else 0,
        )

    def token(self, number: int, version: str, content: TokenContent, *, knows_site_key: bool = True) -> str:
        """Return a token; its site key may be one that is not in the key set."""
        keys = self.key_set
        index = self._key_index(number)
        master = TokenKey(MASTER_KEY_ID, keys.secrets[0], self._random.randbytes(_IV_LENGTH[version]))
        key_id = keys.key_id(index if knows_site_key else index + keys.keys)
        return VERSIONS[version](
            content, master, TokenKey(key_id, keys.secrets[index], self._random.randbytes(_IV_LENGTH[version]))
        )

    def good(self, number: int, version: str, *, is_client_side: bool) -> Sample:
        """Return a valid token on a domain that its site has registered."""
        content = self.content(number, is_client_side=is_client_side)
        token = self.token(number, version, content)
        return Sample(token, self.key_set.domain(content.site_id), content.raw_uid, content.established_ms)

    def _site(self, number: int) -> int:
        return 1 + number * self.key_set.sites // self._count if self._sites is None else self._sites[number]

    def _key_index(self, number: int) -> int:
        keys = self.key_set.keys - 1  # without the master key
        if self._sites is None:
            return 1 + number * keys // self._count
        return 1 + (self._sites[number] - 1) * keys // self.key_set.sites


def make_samples(
    key_set: KeySet,
    count: int,
    version: str = "v4",
    *,
    client_side_every: int | None = 4,
    sites: Sequence[int] | None = None,
) -> list[Sample]:
    """Make distinct valid tokens of one version.

    Every `client_side_every`-th token is generated on the client side, so that its domain is checked; None for none.
    The sites are those of `Mint`.
    """
    mint = Mint(key_set, count, sites)
    return [
        mint.good(number, version, is_client_side=client_side_every is not None and number % client_side_every == 0)
        for number in range(count)
    ]


def to_json(value: object) -> bytes:
    """Return JSON without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def decrypt_requests(samples: Sequence[Sample], head: bytes = PLAIN) -> list[tuple[bytes, bytes]]:
    """Return (request, expected body of the answer) for /decrypt, all in one spelling; `traffic` has others."""
    return [(with_body(head, to_json({"token": each.token, "domain": each.domain})), each.answer()) for each in samples]


def write_requests(path: Path, requests: Sequence[tuple[bytes, bytes]]) -> Path:
    """Write the file that load/loadgen.c describes. Returns `path`."""
    with path.open("wb") as file:
        for request, answer in requests:
            file.write(struct.pack("=II", len(request), len(answer)) + request + answer)
    return path
