"""Makes bid requests for the native shortcut: plain ones with good tokens, and damaged ones. Seeded and cheap."""

import json
from random import Random
from typing import Any

from tests.core.openrtb_strategies import TOKENS

# ---- plain bid requests with good tokens ----

_GOOD = {"uidapi.com": ("V4", "V3", "V2"), "euid.eu": ("EUID",), "UidApi.COM": ("V4",)}
_CLIENT_SIDE = {"uidapi.com": "CLIENT_SIDE", "euid.eu": "CLIENT_SIDE_EUID"}
_NUMBERS = ("0", "-0", "1.10", "1e3", "1e400", "-1.5E-7", "9" * 30)
_VALUES: tuple[object, ...] = (
    "",
    "x",
    "é東😀",
    'a\\b"c/',
    "\x7f",
    "{[",
    "x" * 70,
    True,
    False,
    None,
    [],
    {},
    [[1]],
    {"eids": [{"source": "uidapi.com"}]},
    {"é": {'a"b': 1}},
)
_SITES = (
    {"domain": "example.com"},
    {"page": "https://example.com/a?b=c&d=é"},
    {"domain": "", "page": "http://example.com"},
    {"domain": "example.com/x", "page": "y"},
    {"domain": None, "page": "example.com#"},
)


def plain_bid_request(random: Random) -> bytes:
    """Make a plain bid request; every token in it is good."""
    context: dict[str, Any] = _with_others(random, {})
    is_named = random.random() < 0.6
    if is_named:
        context |= random.choice(({"app": {"bundle": "com.acme.shooter"}}, {"site": random.choice(_SITES)}))
    user = _with_others(random, {})
    for place in random.choice((["eids"], ["ext"], ["ext", "eids"], ["eids", "ext"], [])):
        eids = [_eid(random, is_named=is_named) for _ in range(random.choice((0, 1, 1, 2, 5)))]
        user[place] = eids if place == "eids" else _with_others(random, {"eids": eids})
    context["user"] = user
    ids: dict[str, Any] = random.choice(({"id": "r1"}, {"id": 'é"'}, {"id": ""}, {"id": 7}, {}))
    if random.random() < 0.2:
        request = {
            "openrtb": {
                "ver": "3.0",
                "request": _with_others(random, {**ids, "context": _shuffled(random, context)}),
            }
        }
    else:
        request = _with_others(random, {**ids, **context})
    text = json.dumps(
        _shuffled(random, request),
        ensure_ascii=random.random() < 0.3,
        separators=random.choice(((",", ":"), (", ", ": "), (" ,\n", "\t: "))),
    )
    while '"@"' in text:
        text = text.replace('"@"', random.choice(_NUMBERS), 1)
    return text.encode()


def _eid(random: Random, *, is_named: bool) -> dict[str, Any]:
    if random.random() < 0.4:
        return {
            "source": random.choice(("liveramp.com", "uidapi.co", "")),
            "uids": random.choice(([{"id": "7"}], "x", [])),
        }
    source = random.choice([*_GOOD])
    names = _GOOD[source]
    if is_named and source in _CLIENT_SIDE:
        names = (*names, _CLIENT_SIDE[source])
    uids = [_with_others(random, {"id": TOKENS[random.choice(names)]}) for _ in range(random.choice((1, 1, 1, 2, 0)))]
    return _shuffled(random, {"source": source, "uids": uids, "mm": 3})


def _with_others(random: Random, members: dict[str, Any]) -> dict[str, Any]:
    """Add members of other names."""
    names = random.sample(("x", "imp", "ids", "eid"), random.choice((0, 1, 1, 2)))
    others = {name: random.choice((*_VALUES, "@", ["@", {"y": "@"}])) for name in names}
    return _shuffled(random, {**others, **members})


def _shuffled(random: Random, members: dict[str, Any]) -> dict[str, Any]:
    names = [*members]
    random.shuffle(names)
    return {name: members[name] for name in names}


# ---- damaged ones ----

_INSERTED = (
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"0",
        b"-",
        b".",
        b"e",
        b" ",
        b"\n",
        b"\0",
        b"\x1f",
        b"\x7f",
        b"\xff",
    ),
    *(
        b"\xed\xa0\x80",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\\u0061",
        b"\\ud800",
        b"\\udc00",
        b"\\ud83d\\ude00",
        b"\\x",
        b"\\u00g0",
    ),
    *(b"null", b"true", b"NaN", b"01", b"1.", b'"id":7,', b'"id":"x",', b'"eids":[],', b'"source":"uidapi.com",'),
    *(
        b'"uids":[],',
        b'"user":{},',
        b'"site":{},',
        b'"openrtb":{},',
        b'"domain":"other.org",',
        b'"\\u0069d":"x",',
        b"{},",
    ),
    *(b"[" * 60, b"]" * 60, b"/**/", b"'", b"\xc2\xa0", b"UID2:", b"\xe2\x80\xa8"),
)


MEMBERS = (
    *(
        b'"id":7,',
        b'"id":"x",',
        b'"eids":[],',
        b'"eids":[{}],',
        b'"source":"uidapi.com",',
        b'"source":7,',
        b'"uids":[],',
    ),
    *(
        b'"user":{},',
        b'"user":null,',
        b'"site":{},',
        b'"site":"x",',
        b'"app":{"bundle":7},',
        b'"openrtb":{},',
        b'"ext":{},',
    ),
    *(b'"domain":"other.org",', b'"page":"//example.com",', b'"\\u0069d":"x",', b'"x":"\\ud800",', b'"request":{},'),
    *(b'"bundle":"id7",', b'"openrtb":{"request":{"context":{"user":{}}}},', b'"context":{"user":{"eids":[]}},'),
)


def with_member(random: Random, body: bytes) -> bytes:
    """Put a member into one of the objects of a body."""
    start = random.choice([n + 1 for n, byte in enumerate(body) if byte == ord("{")] or [0])
    return body[:start] + random.choice(MEMBERS) + body[start:]


def damaged(random: Random, body: bytes) -> bytes:
    """Change a body at one place or a few."""
    if random.random() < 0.4:
        return with_member(random, body)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        start = random.randrange(len(body) + 1)
        if random.random() < 0.6:  # at a place that matters
            marks = [n for n, byte in enumerate(body) if byte in b'"{}[]:,\\']
            start = random.choice(marks or [0]) + random.randrange(2)
        end = start + random.choice((0, 0, 1, 1, 2, 5))
        changed = random.choice(_INSERTED)
        kind = random.randrange(5)
        if kind == 0:
            changed = b""
        elif kind == 1:
            first = random.randrange(len(body) + 1)
            changed = body[first : first + random.randrange(60)]
        elif kind == 2 and start < len(body):
            changed, end = bytes([body[start] ^ 1 << random.randrange(8)]), start + 1
        body = body[:start] + changed + body[end:]
    return body if random.random() < 0.95 else body[: random.randrange(len(body) + 1)]
