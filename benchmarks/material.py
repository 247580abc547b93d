"""Keys, tokens and prepared requests. Random numbers are seeded, so that they are the same in every run."""

import json
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pybase64

from bidstream_svc.core.token import BUILDERS, CLIENT_SIDE_GENERATED, TokenContent, TokenKey

VERSIONS = {f"v{version}": build for version, build in BUILDERS.items()}
_IV_LENGTH = {"v2": 16, "v3": 12, "v4": 12}

_DAY_S = 24 * 3600
_MASTER_KEY_ID = 1
_NOW_S = int(time.time())

# The requests of a tracing client; the load generator can replace the digits of the traceparent in each request.
_HEAD = (
    "POST {path} HTTP/1.1\r\n"
    "Host: 127.0.0.1:8080\r\n"
    "Content-Type: application/json\r\n"
    "{extra}"
    "Content-Length: {length}\r\n\r\n"
)
TRACE_HEADER = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"


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
        return [f"site-{site_id}-{number}.example.com" for number in range(self.domains_a_site)]

    def key_id(self, index: int) -> int:
        """Return the id of a key. Ids start at 1; key 1 is the master key."""
        return _MASTER_KEY_ID + index

    def response(self) -> bytes:
        """Return the key response as the JSON of /v2/key/bidstream."""
        return json.dumps(
            {
                "body": {
                    "keys": [
                        {
                            "id": self.key_id(index),
                            "created": _NOW_S - _DAY_S,
                            "activates": _NOW_S - _DAY_S,
                            "expires": _NOW_S + 30 * _DAY_S,
                            "secret": pybase64.b64encode_as_string(secret),
                        }
                        for index, secret in enumerate(self.secrets)
                    ],
                    "max_bidstream_lifetime_seconds": 30 * _DAY_S,
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
    domain: str
    raw_uid: str
    established_ms: int


def make_samples(
    key_set: KeySet, count: int, version: str = "v4", *, client_side_every: int | None = 4
) -> list[Sample]:
    """Make distinct valid tokens under one master key, with site keys and sites spread over the whole key set.

    Every `client_side_every`-th token is generated on the client side, so that its domain is checked; None for none.
    """
    random = Random(count)
    samples = []
    for number in range(count):
        index = 1 + number * (key_set.keys - 1) // count
        site_id = 1 + number * key_set.sites // count
        checked = client_side_every is not None and number % client_side_every == 0
        content = TokenContent(
            raw_uid=pybase64.b64encode_as_string(random.randbytes(32)),
            site_id=site_id,
            expires_ms=(_NOW_S + 7 * _DAY_S) * 1000,
            generated_ms=(_NOW_S - 600) * 1000,
            established_ms=(_NOW_S - _DAY_S) * 1000 + number,
            refreshed_ms=(_NOW_S - 600) * 1000,
            privacy_bits=CLIENT_SIDE_GENERATED if checked else 0,
        )
        master = TokenKey(_MASTER_KEY_ID, key_set.secrets[0], random.randbytes(_IV_LENGTH[version]))
        site = TokenKey(key_set.key_id(index), key_set.secrets[index], random.randbytes(_IV_LENGTH[version]))
        token = VERSIONS[version](content, master, site)
        samples.append(Sample(token, key_set.domain(site_id), content.raw_uid, content.established_ms))
    return samples


def _to_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _answer(sample: Sample) -> dict[str, object]:
    return {"status": "SUCCESS", "uid": sample.raw_uid, "established": sample.established_ms}


def decrypt_requests(samples: Sequence[Sample], extra_heads: Sequence[str] = ("",)) -> list[tuple[bytes, bytes]]:
    """Return (request, expected body of the answer) for /decrypt, one per sample; the extra heads alternate."""
    return [
        (
            _request("/decrypt", {"token": sample.token, "domain": sample.domain}, extra_heads[n % len(extra_heads)]),
            _to_json(_answer(sample)).encode(),
        )
        for n, sample in enumerate(samples)
    ]


def batch_requests(samples: Sequence[Sample], size: int) -> list[tuple[bytes, bytes]]:
    """Return (request, expected body of the answer) for /decrypt/batch, with `size` tokens in each."""
    batches = [samples[start : start + size] for start in range(0, len(samples) - size + 1, size)]
    return [
        (
            _request("/decrypt/batch", {"requests": [{"token": s.token, "domain": s.domain} for s in batch]}),
            _to_json({"results": [_answer(sample) for sample in batch]}).encode(),
        )
        for batch in batches
    ]


def _request(path: str, content: object, extra: str = "") -> bytes:
    body = _to_json(content).encode()
    return _HEAD.format(path=path, extra=extra, length=len(body)).encode() + body


def write_requests(path: Path, requests: Sequence[tuple[bytes, bytes]]) -> Path:
    """Write the file that load/loadgen.c describes. Returns `path`."""
    with path.open("wb") as file:
        for request, answer in requests:
            file.write(struct.pack("=II", len(request), len(answer)) + request + answer)
    return path
