"""Bid requests as exchanges send them: a seeded mixture of versions, sizes, places of the ids and spellings.

README.md, "Bid requests", describes the mixture. Everything but the tokens is made up.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from random import Random
from typing import Any

from benchmarks.material import KeySet, Mint, Sample, to_json
from benchmarks.traffic import CLIENT_SIDE_SHARE, VERSION_SHARES

Json = dict[str, Any]

SIZES = {"1 KB": 1_000, "3.3 KB": 3_300, "10 KB": 10_000, "30 KB": 30_000}
_PLACES = {"user.eids": 60, "user.ext.eids": 25, "both": 5, "3.0": 10}
_KINDS = {"site": 55, "app": 35, "ctv": 10}
_SPELLINGS = {"utf-8": 60, "ascii": 25, "html-safe": 15}
_FOREIGN = ("liveramp.com", "id5-sync.com", "pubcid.org", "criteo.com", "adserver.org", "crwdcntrl.net", "audigent.com")
_WORDS = (
    "fußball",
    "reise",
    "東京",
    "ニュース",
    "café",
    "weather",
    "cooking",
    "gear",
    "home",
    "travel",
    "auto",
    "finance",
)
_AGENT = "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile"
_ANSWER = {"path": "", "source": "uidapi.com", "scope": "UID2"}


@dataclass(frozen=True, slots=True)
class BidSample:
    """A bid request and what is expected of it.

    Attributes:
        answer: the body of the answer of `/openrtb`.
        rewritten: that of `/openrtb/rewrite`.
        ours: the tokens in it, in the order of the answer; one that is in two places is here twice.
    """

    body: bytes
    answer: bytes
    rewritten: bytes
    ours: tuple[Sample, ...]


def make_bid_requests(key_set: KeySet, count: int, size: int, ours: int = 1) -> list[BidSample]:
    """Make bid requests of about `size` bytes with five eids, one of which is ours and has `ours` uids. All succeed."""
    random, mint = Random(count + size + ours), Mint(key_set, count * ours)
    return [_make(random, _tokens(random, mint, number * ours, ours), size) for number in range(count)]


def _tokens(random: Random, mint: Mint, first: int, count: int) -> list[Sample]:
    """Distinct good tokens of one site, in the shares of versions and of client-side ones that `traffic` has."""
    site_id = mint.content(first, is_client_side=False).site_id
    samples = []
    for number in range(first, first + count):
        is_client_side = random.randrange(100) < CLIENT_SIDE_SHARE
        content = replace(mint.content(number, is_client_side=is_client_side), site_id=site_id)
        token = mint.token(number, _choose(random, VERSION_SHARES), content)
        domain = mint.key_set.domain(site_id) if is_client_side else None
        samples.append(Sample(token, domain, content.raw_uid, content.established_ms))
    return samples


def _make(random: Random, tokens: Sequence[Sample], size: int) -> BidSample:
    domain = next((each.domain for each in tokens if each.domain), "news.example.com")
    place, kind = _choose(random, _PLACES), _choose(random, _KINDS)
    id_field, context, matched = _context(random, kind, domain)
    own = {"source": "uidapi.com", "uids": [_uid(random, each.token) for each in tokens]}
    eids = [_foreign_eid(random, source) for source in random.sample(_FOREIGN, 4)]
    index = random.randrange(5)
    eids.insert(index, own)
    user: Json = {"id": _hex(random, 16), "ext": {"consent": "CPxyz" + _hex(random, 40)}}
    places = {"user.ext.eids": ["ext/"], "both": ["", "ext/"]}.get(place, [""])
    for each in places:
        (user["ext"] if each else user)["eids"] = eids
    context["user"] = user
    items: list[Json] = [_imp(random, 1)]
    request: Json = {"id": id_field, "imp": items, **context, "at": 1, "tmax": 300, "cur": ["USD"]}
    whole, prefix = request, "/user/"
    if place == "3.0":
        request = {"id": id_field, "tmax": 300, "at": 1, "cur": ["USD"], "item": items, "context": context}
        whole, prefix = {"openrtb": {"ver": "3.0", "domainspec": "adcom", "request": request}}, PREFIX_3_0
    spell = _SPELL[_choose(random, _SPELLINGS)]
    _fill(random, context, items, size - len(spell(whole)))
    body = spell(whole)
    rewritten = body
    for sample in tokens:
        rewritten = rewritten.replace(sample.token.encode(), str(sample.raw_uid).encode())
    ids = [
        {
            **_ANSWER,
            "path": f"{prefix}{each}eids/{index}/uids/{number}",
            "status": sample.status,
            "uid": sample.raw_uid,
            "established": sample.established_ms,
            "matched": matched if sample.domain else None,
        }
        for each in places
        for number, sample in enumerate(tokens)
    ]
    return BidSample(body, to_json({"id": id_field, "ids": ids}), rewritten, tuple(tokens) * len(places))


PREFIX_3_0 = "/openrtb/request/context/user/"


def _choose(random: Random, shares: Mapping[str, int]) -> str:
    return random.choices(list(shares), weights=list(shares.values()))[0]


def _hex(random: Random, count: int) -> str:
    return random.randbytes((count + 1) // 2).hex()[:count]


def _uid(random: Random, token: str) -> Json:
    return {"id": token, "atype": 3, **({"ext": {"rtiPartner": "UID2"}} if random.random() < 0.2 else {})}


def _foreign_eid(random: Random, source: str) -> Json:
    return {"source": source, "uids": [{"id": _hex(random, random.choice((20, 36, 48))), "atype": 1}]}


def _context(random: Random, kind: str, domain: str) -> tuple[str, Json, str]:
    """Return the id of a request, its site or app and device, and the field that has the name: a bundle is one."""
    device: Json = {"ua": _AGENT, "ip": "192.0.2.7", "devicetype": 4, "language": "en", "lmt": 0}
    if kind != "site":
        app: Json = {"id": _hex(random, 8), "bundle": domain, "name": "Shooter"}
        device["ifa"] = _hex(random, 32)
        if kind == "ctv":
            app |= {"content": {"genre": "news", "livestream": 1, "channel": {"id": "7"}}}
            device["devicetype"] = 3
        return _hex(random, 32), {"app": app, "device": device}, "app.bundle"
    page = f"https://www.{domain}/{random.choice(_WORDS)}/a?id={random.randrange(1 << 20)}&utm=x"
    site: Json = {"id": _hex(random, 8), "page": page}
    if random.random() < 0.8:
        site["domain"] = domain
    return _hex(random, 32), {"site": site, "device": device}, "site.domain" if "domain" in site else "site.page"


def _imp(random: Random, number: int) -> Json:
    return {"id": str(number), "banner": {"w": 300, "h": 250}, "bidfloor": random.randrange(500) / 100, "secure": 1}


# ---- filling up to the size ----


def _fill(random: Random, context: Json, items: list[Json], missing: int) -> None:
    """Add what exchanges add, in the order in which they add it, until the size is reached."""
    for name, part in chain(_once(random), _repeated(random)):
        length = len(to_json(part)) + len(name) + 4
        if length > missing:
            break
        missing -= length
        if name == "imp":
            items.append(part)
        elif name == "deal":
            items[-1].setdefault("pmp", {"private_auction": 0, "deals": []})["deals"].append(part)
        else:
            where, _, field = name.partition("/")
            parent = context.get(where) or context.get("site") or context["app"]
            parent[field] = part
    context["device"]["model"] = "Pixel 8 " + "x" * max(0, missing - 20)


def _once(random: Random) -> Iterator[tuple[str, Json]]:
    words = random.choices(_WORDS, k=8)
    yield "device/geo", {"lat": 52.51, "lon": 13.38, "country": "DEU", "city": "Köln", "utcoffset": 60, "type": 2}
    yield "content/publisher", {"id": _hex(random, 8), "name": "Verlag " + words[0], "ext": {"x": {"id": 1.10}}}
    yield "content/content", {"title": " ".join(words), "keywords": ",".join(words), "language": "de", "cat": ["IAB1"]}
    yield (
        "device/sua",
        {
            "browsers": [{"brand": "Chromium", "version": ["131", "0", "0"]}, {"brand": "Not=A", "version": ["9"]}],
            "platform": {"brand": "Android", "version": ["14"]},
            "mobile": 1,
            "model": "Pixel 8",
        },
    )
    segments = [{"id": str(random.randrange(10_000)), "name": word} for word in words[:4]]
    yield "user/data", [{"id": "17", "name": "data & more", "segment": segments}]  # type: ignore[misc]


def _repeated(random: Random) -> Iterator[tuple[str, Json]]:
    number = 1
    while True:
        number += 1
        yield "imp", _video(random, number) if number % 3 == 0 else _banner(random, number)
        for _ in range(random.randrange(4)):
            seats = [str(random.randrange(900)) for _ in range(3)]
            yield "deal", {"id": _hex(random, 12), "bidfloor": 1.50, "bidfloorcur": "USD", "at": 1, "wseat": seats}


def _banner(random: Random, number: int) -> Json:
    formats = [{"w": width, "h": height} for width, height in ((300, 250), (300, 600), (336, 280), (970, 250))]
    return {
        **_imp(random, number),
        "banner": {"format": formats, "topframe": 1, "pos": 3, "btype": [4], "battr": [1, 3, 5, 8, 9, 10, 13, 14]},
        "tagid": f"/21700/{random.choice(_WORDS)}/{number}",
        "ext": {"gpid": f"/21700/a#{number}", "macro": "${AUCTION_PRICE}"},
    }


def _video(random: Random, number: int) -> Json:
    return {
        "id": str(number),
        "video": {
            "mimes": ["video/mp4", "video/webm", "application/javascript"],
            "minduration": 5,
            "maxduration": 30,
            "protocols": [2, 3, 5, 6, 7, 8],
            "w": 640,
            "h": 360,
            "startdelay": 0,
            "playbackmethod": [2, 6],
            "api": [2, 7],
        },
        "bidfloor": random.randrange(900) / 100,
        "secure": 1,
    }


# ---- spellings of JSON ----


_encode_ascii = json.JSONEncoder(separators=(",", ":")).encode
_encode_utf8 = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _spell_ascii(value: Json) -> bytes:
    return _encode_ascii(value).encode()


def _spell_utf8(value: Json) -> bytes:
    return _encode_utf8(value).encode()


def _spell_html_safe(value: Json) -> bytes:
    """As Go's encoder does it, so that JSON can stand in HTML."""
    return _spell_utf8(value).replace(b"&", b"\\u0026")


_SPELL: Mapping[str, Callable[[Json], bytes]] = {
    "utf-8": _spell_utf8,
    "ascii": _spell_ascii,
    "html-safe": _spell_html_safe,
}
