"""Makes bodies of `POST /decrypt` for the kernel: plain, nearly plain and damaged ones, around tokens of every kind.

Seeded, and cheap enough for millions: tokens are made in advance, and most inputs only combine them anew.
"""

import json
from base64 import b64encode
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from bidstream_svc.core.decrypt import BoundDecrypt, bind_decrypt
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import Kernel, build_kernel
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.core.token import BUILDERS, TokenContent, TokenKey, decode_text
from tests.core.assemble import gcm_layer, pkcs7, spellings, u32, v2_layer
from tests.vectors.inputs import (
    CLOCK_SKEW_MS,
    DEFAULT_CLOCK_SKEW_MS,
    EXPIRED_MASTER,
    HOUR_MS,
    KEY_RESPONSES,
    LISTED_SITE,
    MASTER,
    MASTER_LIKE_V3,
    MAX_LIFETIME_MS,
    NO_NAMES_SITE,
    NOW_MS,
    SECRETS,
    SITE,
    UNLISTED_SITE,
)

TOKENS_A_SCENARIO = 300
# Each occurs as often as it stands here.
_SCENARIOS = (
    *(["uid2", "euid", "short keys"] * 4),
    *("sharing", "maximum missing", "maximum zero"),
    *("skew missing", "skew zero", "site_data missing", "all expire now", "unrelated key left"),
)
_PRIVACY_BITS = (0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 0x40000001, 0xFFFFFFFF)
_SITE_IDS = (*[LISTED_SITE] * 6, NO_NAMES_SITE, UNLISTED_SITE, 0, 2**32 - 1)
_OFFSETS_MS = (
    *(0, HOUR_MS, -HOUR_MS, MAX_LIFETIME_MS, CLOCK_SKEW_MS, DEFAULT_CLOCK_SKEW_MS, MAX_LIFETIME_MS - HOUR_MS),
    *(2**62, -(2**62)),
)
_LISTED = ("example.com", "example.co.uk", "com.acme.shooter", "192.0.2.7", "shop.example.net")
_NAMES = (
    *(_LISTED * 8), *map(str.upper, _LISTED), *(f" {name}. " for name in _LISTED),
    *(f"www.{name}" for name in _LISTED), *(name[:-1] for name in _LISTED), *(name + "m" for name in _LISTED),
    "bücher.de", "xn--bcher-kva.de", "XN--BCHER-KVA.de", "straße.de", "xn--strae-oqa.de", "example.net",
    "co.uk", "", " ",
    ".", "a" * 255, "a" * 256, "\uff45xample.com", "example.com\x7f", "example.com\u00a0", "example.com..", "\u2028",
    "\u2603.net",
)  # fmt: skip
_V2_UIDS = (
    "",
    "uid",
    "=" * 44,
    'a"b',
    "a\\b",
    "a/b",
    "a\x1fb",
    "a\x7fb",
    "é",
    "\U0001f600",
    "a b",
    "~",
    " " * 700,
    "\0",
)
_BLANKS = ("", "", "", "", " ", "\n", "\r\n", "\t ", "  ")
_JUNK = (
    b'"',
    b"\\",
    b"{",
    b"}",
    b",",
    b":",
    b" ",
    b"\0",
    b"\xff",
    b"=",
    b"\xc3\xa9",
    b"null",
    b'"domain":',
    b"\\u0061",
    b"[",
)


@dataclass(frozen=True)
class Scenario:
    """Keys, the two implementations bound to them, and tokens."""

    snapshot: KeySnapshot
    decrypt: BoundDecrypt
    kernel: Kernel
    tokens: list[str]

    @cached_property
    def decrypt_opened(self) -> BoundDecrypt:
        """`decrypt`, but the kernel opens what it can."""
        return bind_decrypt(self.snapshot, self.kernel.open)


@dataclass(frozen=True, slots=True)
class Input:
    """A request: a body and when it arrives; `kind` is how it was made."""

    kind: str
    scenario: Scenario
    body: bytes
    now_ms: int


class Inputs:
    """Makes inputs from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - not for secrets
        self._scenarios: list[Scenario] = []
        self.renew()

    def renew(self) -> None:
        """Make other tokens."""
        made = {name: self._scenario(name) for name in dict.fromkeys(_SCENARIOS)}
        self._scenarios = [made[name] for name in _SCENARIOS]

    def input(self) -> Input:
        """Make an input."""
        random = self._random
        scenario = random.choice(self._scenarios)
        kind, make = random.choice(_KINDS)
        body = make(random, random.choice(scenario.tokens))
        now_ms = NOW_MS if random.random() < 0.9 else NOW_MS + random.choice(_OFFSETS_MS) + random.randint(-1, 1)
        return Input(kind, scenario, body, now_ms)

    def batch(self, input_: Input) -> bytes:
        """Make a batch around an input."""
        random = self._random
        plain = [
            _plain(random, random.choice(input_.scenario.tokens))
            for _ in range(random.choice((0, 1, 2, 2, 5, 70, 200)))
        ]
        elements = [*plain, input_.body]
        random.shuffle(elements)
        blank = random.choice(_BLANKS).encode()
        body = b'{"requests":[' + (blank + b"," + blank).join(elements) + b"]" + blank + b"}"
        return _damaged(random, body) if random.random() < 0.05 else body

    def _scenario(self, name: str) -> Scenario:
        entry, secrets = KEY_RESPONSES.get(name, KEY_RESPONSES["uid2"]), dict(SECRETS)
        if name == "short keys":
            entry, secrets = _shortened(entry)
        snapshot = parse_key_response(json.dumps(entry["response"], ensure_ascii=False), KeyPurpose(entry["purpose"]))
        tokens = [self._token(secrets, snapshot.scope) for _ in range(TOKENS_A_SCENARIO)]
        return Scenario(snapshot, bind_decrypt(snapshot), build_kernel(snapshot), tokens)

    def _token(self, secrets: dict[int, bytes], scope: IdentityScope) -> str:
        random = self._random
        version = random.choice(sorted(BUILDERS))
        is_good = random.random() < 0.7
        master_id = MASTER if is_good or random.random() < 0.8 else random.choice([*secrets])
        site_id = SITE if is_good or random.random() < 0.8 else random.choice([*secrets])
        content = self._content(version, is_good=is_good, scope=scope)
        iv_length = 16 if version == 2 else 12
        master = TokenKey(master_id, secrets[master_id], random.randbytes(iv_length))
        site = TokenKey(site_id, secrets[site_id], random.randbytes(iv_length))
        if random.random() < 0.15:
            raw = _layered(random, version, content, master, site)
        else:
            text = BUILDERS[version](content, master, site)
            if is_good and random.random() < 0.7:
                return text
            raw = decode_text(text)
        if not is_good and random.random() < 0.3:
            raw = _damaged(random, raw)
        spelled = spellings(raw)
        return spelled["standard"] if random.random() < 0.6 else random.choice([*spelled.values()])

    def _content(self, version: int, *, is_good: bool, scope: IdentityScope) -> TokenContent:
        random = self._random

        def moment(usual_ms: int) -> int:
            return usual_ms if is_good else NOW_MS + random.choice(_OFFSETS_MS) + random.randint(-1, 1)

        if version == 2 and not is_good:
            uid = random.choice(_V2_UIDS)
        else:
            uid = b64encode(
                random.randbytes(random.choice((32, 33) if is_good else (0, 31, 32, 33, 34, 400, 700)))
            ).decode()
        if not is_good and random.random() < 0.1:
            scope = random.choice([*IdentityScope])
        return TokenContent(
            raw_uid=uid,
            site_id=LISTED_SITE if is_good else random.choice(_SITE_IDS),
            expires_ms=moment(NOW_MS + HOUR_MS),
            generated_ms=moment(NOW_MS - HOUR_MS),
            established_ms=random.choice((0, -1, NOW_MS, 2**63 - 1, -(2**63), random.getrandbits(40))),
            privacy_bits=random.choice(_PRIVACY_BITS[:8] if is_good else _PRIVACY_BITS),
            scope=scope,
        )


def _shortened(entry: dict[str, Any]) -> tuple[dict[str, Any], dict[int, bytes]]:
    """Keys of 16 bytes, and of 24 for version 2; and spellings of names that only some operators use."""
    lengths = {MASTER: 16, SITE: 16, EXPIRED_MASTER: 16, MASTER_LIKE_V3: 24}
    secrets = {key_id: secret[: lengths.get(key_id, 32)] for key_id, secret in SECRETS.items()}
    entry = deepcopy(entry)
    for key in entry["response"]["body"]["keys"]:
        key["secret"] = b64encode(secrets[key["id"]]).decode()
    names = [f"x{number}.example" for number in range(200)]
    entry["response"]["body"]["site_data"][0]["domain_names"] += [
        *names,
        "a/b",
        'quoted"',
        "back\\slash",
        "Á.example",
        "",
    ]
    return entry, secrets


def _layered(random: Random, version: int, content: TokenContent, master: TokenKey, site: TokenKey) -> bytes:
    """A token in which one layer is damaged before the next is put around it."""
    place = random.choice(("site", "site", "master", "padding"))
    bits, established = u32(content.privacy_bits), content.established_ms.to_bytes(8, "big", signed=True)
    expires = content.expires_ms.to_bytes(8, "big", signed=True)

    def perhaps(here: str, plaintext: bytes) -> bytes:
        return _damaged(random, plaintext) if here == place else plaintext

    def padded(plaintext: bytes) -> bytes:
        whole = pkcs7(plaintext)
        return whole[:-1] + bytes([random.randrange(256)]) if place == "padding" else whole

    if version == 2:
        uid = random.choice((content.raw_uid.encode(), random.randbytes(8), b"\xff", b"\x80abc"))
        length = (
            len(uid)
            if random.random() < 0.7
            else random.choice((0, len(uid) - 1 & 0xFFFFFFFF, len(uid) + 1, 2**32 - 1))
        )
        inner = perhaps("site", u32(content.site_id) + u32(length) + uid + bits + established)
        outer = perhaps("master", expires + v2_layer(site.key_id, site.secret, site.iv, padded(inner)))
        return b"\x02" + v2_layer(master.key_id, master.secret, master.iv, padded(outer))
    inner = perhaps("site", u32(content.site_id) + bytes(12) + bits + established + bytes(8) + random.randbytes(32))
    generated = content.generated_ms.to_bytes(8, "big", signed=True)
    outer = perhaps("master", expires + generated + bytes(13) + gcm_layer(site.key_id, site.secret, site.iv, inner))
    head = bytes([random.choice((0, 3, 0x10, 0x13, 2, random.randrange(256))), {3: 112, 4: 128}[version]])
    return head + gcm_layer(master.key_id, master.secret, master.iv, outer)


def _damaged(random: Random, data: bytes) -> bytes:
    """Cut, lengthened, with a bit flipped, a byte replaced, or a piece lost, repeated or put in."""
    if not data:
        return random.randbytes(3)
    place, length = random.randrange(len(data)), random.randint(1, 20)
    match random.randrange(8):
        case 0:
            return data[:place]
        case 1:
            return data + random.choice((random.randbytes(length), *_JUNK))
        case 2 | 3:
            return data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]
        case 4:
            return data[:place] + bytes([random.randrange(256)]) + data[place + 1 :]
        case 5:
            return data[:place] + data[place + length :]
        case 6:
            return data[: place + length] + data[place:]
        case _:
            return data[:place] + random.choice(_JUNK) + data[place:]


def _plain(random: Random, token: str) -> bytes:
    """A body in the plain spelling."""
    blank = [random.choice(_BLANKS) for _ in range(6)] if random.random() < 0.3 else [""] * 6
    members = [f'"token"{blank[0]}:{blank[1]}"{token}"']
    form = random.random()
    if form < 0.8:
        domain = f'"{random.choice(_NAMES)}"' if form < 0.65 else "null"
        members.insert(random.randrange(2), f'"domain"{blank[2]}:{blank[0]}{domain}')
    return f"{blank[3]}{{{blank[1]}{(blank[4] + ',' + blank[5]).join(members)}{blank[2]}}}{blank[3]}".encode()


def _nearly_plain(random: Random, token: str) -> bytes:
    """A body that JSON allows, or almost, but not in the plain spelling."""
    name = json.dumps(random.choice(_NAMES), ensure_ascii=random.random() < 0.5)
    place = random.randrange(len(token) + 1)
    escaped = (
        token[:place]
        + "".join(f"\\u{ord(character):04x}" for character in token[place : place + 2])
        + token[place + 2 :]
    )
    form = random.choice(_NEARLY)
    return (
        form.replace("%escaped", escaped)
        .replace("%token", token)
        .replace("%name", name)
        .encode("utf-8", "surrogatepass")
    )


_NEARLY = (
    '{"token":"%escaped","domain":%name}',
    '{"token":"%token","domain":%name,"scope":"UID2"}',
    '\ufeff{"token":"%token"}',
    '{"token":"%token","token":"x","domain":%name}',
    '{"token":"x","domain":%name,"token":"%token"}',
    '{"token":"%token","domain":"x","domain":%name}',
    '{"token":"%token","domain":null,"domain":%name}',
    '{"domain":%name,"token":"%token",}',
    '{"token":"%token","domain":["x"]}',
    '{"token":"%token","domain":true}',
    '{"token":null,"domain":%name}',
    '{"Token":"%token","token":"%token"}',
    '{"t\\u006fken":"%token","domain":%name}',
    '{"token":"%token","domain":"\\u0065xample.com"}',
    '{"token":"%token","domain":"\\ud800"}',
    "{'token':'%token'}",
    '{"token":"%token","domain":"a\tb"}',
    '{"token":"%token" "domain":%name}',
    '[{"token":"%token"}]',
    '"%token"',
    "{}",
    '{"token":"%token\\/","domain":%name}',
    '{"token":" %token"}',
    '{"token":"%token\\n"}',
    '{"token":""}',
    '{"token":"AAA"}',
    '{"token":"%token"}\x00',
    '{"token":"%token"}{}',
    '{"token":"%token"} \x0b',
    '{"token":"%token","domain":1e400}',
    '{"token":"%token","domain":"x\\"}',
    '{"token":"%token","x":{"token":"%token"}}',
    '/**/{"token":"%token"}',
    "nul",
    "",
    '{"token":"%token%token"}',
    '{"token":"%token","domain":"\udc80"}',
    '{"domain":"%token","token":"%token"}',
)


def _damaged_body(random: Random, token: str) -> bytes:
    return _damaged(random, _plain(random, token))


def _damaged_token(random: Random, token: str) -> bytes:
    damaged = _damaged(random, token.encode())
    return _plain(random, "%").replace(b"%", damaged)


_KINDS: tuple[tuple[str, Callable[[Random, str], bytes]], ...] = (
    *[("plain", _plain)] * 4,
    *[("nearly plain", _nearly_plain)] * 2,
    ("damaged body", _damaged_body),
    ("damaged token", _damaged_token),
)
