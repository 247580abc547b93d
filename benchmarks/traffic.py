"""Requests as they are in traffic: a seeded mixture of versions, spellings, domains and failing tokens.

The shares are percent; README.md, "Traffic", says where they come from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from random import Random
from typing import Any, TypeVar

import pybase64

from benchmarks.heads import PLAIN, with_body
from benchmarks.material import DAY_S, NOW_S, KeySet, Mint, Sample, to_json
from bidstream_svc import DecryptionStatus
from bidstream_svc.core.token import CLIENT_SIDE_GENERATED, OPTED_OUT, TokenContent

Choice = TypeVar("Choice")

VERSION_SHARES = {"v4": 80, "v3": 12, "v2": 8}
CLIENT_SIDE_SHARE = 25
_BUNDLE = "com.publisher.games.bubble.shooter"


def make_traffic(
    key_set: KeySet, count: int, *, failing_share: int = 0, sites: Sequence[int] | None = None
) -> list[Sample]:
    """Make `count` distinct tokens in the shares of traffic, in random order.

    Failing ones are of each kind of FAILURES in turn; they replace the last good ones before the order is made. The
    sites are those of `Mint`.
    """
    mint, random = Mint(key_set, count, sites), Random(count)
    failing = count * failing_share // 100
    kinds = list(FAILURES.values())
    samples = [_good(mint, number, random) for number in range(count - failing)]
    samples += [kinds[n % len(kinds)](mint, count - failing + n) for n in range(failing)]
    random.shuffle(samples)
    return samples


def make_failing(key_set: KeySet, count: int, kind: str) -> list[Sample]:
    """Make `count` distinct tokens of one kind of FAILURES."""
    mint = Mint(key_set, count)
    return [FAILURES[kind](mint, number) for number in range(count)]


def spell_bodies(samples: Sequence[Sample]) -> list[bytes]:
    """Return the JSON of each request, in the spellings of several encoders."""
    random = Random(len(samples))
    return [_choose(random, _SPELLINGS)(each, random) for each in samples]


def traffic_requests(samples: Sequence[Sample], heads: Sequence[bytes] = (PLAIN,)) -> list[tuple[bytes, bytes]]:
    """Return (request, expected body of the answer) for /decrypt; the heads alternate, and Content-Length varies."""
    return [
        (with_body(head, body), sample.answer())
        for head, body, sample in zip(cycle(heads), spell_bodies(samples), samples, strict=False)
    ]


def traffic_batches(samples: Sequence[Sample], size: int) -> list[tuple[bytes, bytes]]:
    """Return (request, expected body of the answer) for /decrypt/batch, with `size` tokens in each.

    Every token is in one; the last is filled up with the first tokens.
    """
    bodies, answers = spell_bodies(samples) * 2, [each.answer() for each in samples] * 2
    return [
        (
            with_body(PLAIN, b'{"requests":[%b]}' % b",".join(bodies[start : start + size]), b"/decrypt/batch"),
            b'{"results":[%b]}' % b",".join(answers[start : start + size]),
        )
        for start in range(0, len(samples), size)
    ]


def _choose(random: Random, shares: Mapping[Choice, int]) -> Choice:
    return random.choices(list(shares), weights=list(shares.values()))[0]


# ---- good tokens ----


def _good(mint: Mint, number: int, random: Random) -> Sample:
    version = _choose(random, VERSION_SHARES)
    is_client_side = random.randrange(100) < CLIENT_SIDE_SHARE
    sample = mint.good(number, version, is_client_side=is_client_side)
    token = _choose(random, _V4_SPELLINGS)(sample.token) if version == "v4" else sample.token
    # The domain of a server-side token is not checked, and often is none that the site has registered.
    spell = _choose(random, _REGISTERED if is_client_side else _REGISTERED | _UNCHECKED)
    return replace(sample, token=token, domain=spell(sample.domain or ""))


def _padded(token: str) -> str:
    return token + "=" * (-len(token) % 4)


def _standard(token: str) -> str:
    return token.replace("-", "+").replace("_", "/")


# Versions 2 and 3 have one spelling: standard base64, padded.
_V4_SPELLINGS: Mapping[Callable[[str], str], int] = {
    str: 85,  # as operators generate it: base64url without padding
    _padded: 5,
    lambda token: _standard(_padded(token)): 7,
    _standard: 3,
}
_REGISTERED: dict[Callable[[str], str | None], int] = {
    str: 75,
    lambda domain: f"www.{domain}": 10,
    str.upper: 3,
    lambda domain: f"{domain}.": 2,
}
_UNCHECKED: dict[Callable[[str], str | None], int] = {
    lambda _: None: 15,
    lambda _: _BUNDLE: 15,
}


# ---- spellings of JSON ----


def _fields(sample: Sample) -> dict[str, str | None]:
    return {"token": sample.token, "domain": sample.domain}


def _compact(sample: Sample, _: Random) -> bytes:
    return to_json(_fields(sample))


def _without_null(sample: Sample, _: Random) -> bytes:
    return to_json({name: value for name, value in _fields(sample).items() if value is not None})


def _with_blanks(sample: Sample, _: Random) -> bytes:
    return to_json(_fields(sample)).replace(b'":', b'": ').replace(b',"', b', "')


def _domain_first(sample: Sample, _: Random) -> bytes:
    return to_json(dict(reversed(_fields(sample).items())))


_SPELLINGS: Mapping[Callable[[Sample, Random], bytes], int] = {
    _compact: 45,
    _without_null: 20,
    _with_blanks: 30,
    _domain_first: 5,
}


# ---- failing tokens ----


def _failing(
    status: DecryptionStatus,
    *,
    knows_site_key: bool = True,
    damage: Callable[[str], str] = str,
    domain: Callable[[str], str] = str,
    **changes: Any,
) -> Callable[[Mint, int], Sample]:
    """Return a function that makes the failing token with a number: version 4, with these fields changed."""

    def make(mint: Mint, number: int) -> Sample:
        content: TokenContent = replace(mint.content(number, is_client_side=False), **changes)
        token = damage(mint.token(number, "v4", content, knows_site_key=knows_site_key))
        return Sample(token, domain(mint.key_set.domain(content.site_id)), None, None, status)

    return make


def _with_byte(position: int, value: Callable[[int], int]) -> Callable[[str], str]:
    def damage(token: str) -> str:
        raw = bytearray(pybase64.urlsafe_b64decode(_padded(token)))
        raw[position] = value(raw[position])
        return pybase64.urlsafe_b64encode(raw).decode().rstrip("=")

    return damage


FAILURES: Mapping[str, Callable[[Mint, int], Sample]] = {
    "expired": _failing(DecryptionStatus.EXPIRED_TOKEN, expires_ms=(NOW_S - 60) * 1000),
    "site key unknown": _failing(DecryptionStatus.NOT_AUTHORIZED_FOR_KEY, knows_site_key=False),
    "domain not listed": _failing(
        DecryptionStatus.DOMAIN_NAME_CHECK_FAILED,
        domain="not-{}".format,
        privacy_bits=CLIENT_SIDE_GENERATED,
    ),
    "lifetime too long": _failing(DecryptionStatus.INVALID_TOKEN_LIFETIME, generated_ms=(NOW_S - 60 * DAY_S) * 1000),
    "opted out": _failing(DecryptionStatus.USER_OPTED_OUT, privacy_bits=OPTED_OUT),
    "tampered with": _failing(DecryptionStatus.INVALID_PAYLOAD, damage=_with_byte(-1, lambda byte: byte ^ 1)),
    "not base64": _failing(DecryptionStatus.INVALID_PAYLOAD, damage=lambda token: token[:-4] + "!" + token[-3:]),
    "version unknown": _failing(DecryptionStatus.VERSION_NOT_SUPPORTED, damage=_with_byte(1, lambda _: 200)),
}
