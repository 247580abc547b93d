"""Bid requests as text: usual ones, and ones with anything that a peer may write."""

import json
from collections.abc import Callable

from hypothesis import strategies as st

from bidstream_svc.core.identity import IdentityScope
from tests.vectors.inputs import HOUR_MS, NOW_MS, RAW_UID, build

_EUID = {"scope": IdentityScope.EUID}
TOKENS: dict[str, str] = {
    "V4": build(4).token,
    "V3": build(3).token,
    "V2": build(2).token,
    "EUID": build(4, **_EUID).token,
    "EXPIRED": build(4, expires_ms=NOW_MS - 1, generated_ms=NOW_MS - HOUR_MS).token,
    "CLIENT_SIDE": build(4, privacy_bits=2).token,
    "CLIENT_SIDE_EUID": build(4, privacy_bits=2, **_EUID).token,
    "CLIENT_SIDE_TOO_LONG": build(4, privacy_bits=2, expires_ms=NOW_MS + 500 * HOUR_MS).token,
    "OTHER_SITE": build(4, privacy_bits=2, site_id=77).token,
    "OPTED_OUT": build(4, privacy_bits=4).token,
}

_Text = st.SearchStrategy[str]

_ids = st.sampled_from([*TOKENS.values(), TOKENS["V4"], TOKENS["V4"], RAW_UID, "", "UID2:x", "{{uid}}", "\ud800", "é"])
_sources = st.sampled_from(["uidapi.com"] * 4 + ["euid.eu", "UIDAPI.com", "liveramp.com", "uidapi.com ", "\u017f", ""])
_space = st.sampled_from([""] * 6 + [" ", "\n\t", "\r  "])
_rarely = st.integers(0, 12).map(lambda number: number == 12)
_counts = st.sampled_from([1, 1, 1, 2, 2, 3, 0])
_scalars = st.sampled_from(
    [
        *("1.10", "1e3", "1e400", "-0", "0.0", "9" * 40, "true", "null", "[]", "{}", '"x"', '"{[}"'),
        *(r'"\ud800"', r'"\u00e9\/"', '"é"', r'"\\"', r'"\"}"', r'"\ud83d\ude00"'),
        *('{"eids":[{"source":"uidapi.com"}]}', '[[1],{"id":"x"}]'),
    ]
)


@st.composite
def _spelled(draw: st.DrawFn, text: str) -> str:
    """A JSON string, at times with escapes that it does not need."""
    if draw(_rarely) is False:
        return json.dumps(text, ensure_ascii=not _is_encodable(text))
    position = draw(st.integers(0, max(0, len(text) - 1)))
    shown = [
        f"\\u{ord(c):04x}" if n == position and ord(c) < 0x10000 else json.dumps(c)[1:-1] for n, c in enumerate(text)
    ]
    return '"' + "".join(shown).replace("/", draw(st.sampled_from(["/", "\\/"]))) + '"'


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _strings(texts: st.SearchStrategy[str]) -> _Text:
    return texts.flatmap(_spelled)


@st.composite
def _objects(draw: st.DrawFn, /, **fields: _Text) -> str:
    """An object with some of these members, some of them twice or of the wrong type, and others."""
    names = [name for name in fields if draw(_rarely) is False]
    names += draw(st.lists(st.sampled_from([*fields, *fields, "x", "id", "ext"]), max_size=2))
    names = draw(st.permutations(names))
    members = []
    space = draw(_space)
    for name in names:
        value = draw(_scalars if name not in fields or draw(_rarely) else fields[name])
        members.append(f"{space}{draw(_spelled(name))}{space}:{space}{value}{space}")
    return "{" + ",".join(members) + "}"


@st.composite
def _arrays(draw: st.DrawFn, elements: _Text, max_size: int) -> str:
    drawn = [draw(_scalars if draw(_rarely) else elements) for _ in range(draw(_counts) % (max_size + 1))]
    space = draw(_space)
    return f"{space}[" + ",".join(f"{space}{each}{space}" for each in drawn) + f"{space}]"


_uid = _objects(id=_strings(_ids), atype=st.sampled_from(["3", '"3"']))
_eid = _objects(source=_strings(_sources), uids=_arrays(_uid, 3), uids2=_scalars)
_user = _objects(eids=_arrays(_eid, 3), ext=_objects(eids=_arrays(_eid, 2)), buyeruid=_strings(st.just("b")))
_hosts = st.sampled_from(
    ["example.com", "www.Example.co.uk.", "bücher.de", "xn--bcher-kva.de", "other.org", "192.0.2.7", "", "localhost"]
)
_pages: _Text = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "https://", "//", "http:\\\\", "HTTPS://user:word@", " "]),
    _hosts,
    st.sampled_from(["", "/", ":8080/x?y#z", "?u=http://other.org/", "\\x", "#f", "/é\ud800"]),
)
_store_urls = st.sampled_from(
    [
        "https://apps.apple.com/us/app/name/id123456789",
        "https://apps.apple.com/us/app/name/id123456789/?mt=8",
        "https://play.google.com/store/apps/details?id=com.acme.shooter&hl=en",
        "https://play.google.com/store/apps/details?id\\u003dcom.acme.shooter",
        "play.google.com/store/apps/details?hl=en&id=com.acme.shooter#x",
        "market://details?id=com.acme.shooter",
        "https://example.com/id123456789",
        "",
    ]
)
_bundles = st.sampled_from(['"com.acme.shooter"', '"id123456789"', "123456789", "123456789.0", '" com.acme.shooter "'])
_site = _objects(domain=_strings(_hosts | _pages), page=_strings(_pages))
_app = _objects(bundle=_bundles, storeid=_bundles, domain=_strings(_hosts), storeurl=_strings(_store_urls))
_context = {"user": _user, "site": _site, "app": _app}
_request_ids = st.sampled_from(['"r1"', '"\\ud800"', '"é"', '""', "7", "null"])
_version_2 = _objects(id=_request_ids, **_context)
_version_3 = _objects(openrtb=_objects(request=_objects(id=_request_ids, context=_objects(**_context))), user=_user)


def _encode(text: str) -> bytes:
    return text.encode()


any_bid_requests: st.SearchStrategy[bytes] = st.one_of(_version_2, _version_2, _version_3).map(_encode)


def _plain(value: Callable[[st.DrawFn], object]) -> st.SearchStrategy[object]:
    return st.composite(value)()


def _usual_user(draw: st.DrawFn) -> object:
    def eids() -> list[object]:
        def eid(source: str, token: str) -> object:
            return {"source": source, "uids": [{"id": token, "atype": 3}]}

        ours = [eid("uidapi.com", TOKENS[name]) for name in draw(st.lists(st.sampled_from(sorted(TOKENS)), max_size=3))]
        foreign = [eid(f"s{n}.com", "x" * n) for n in range(draw(st.integers(0, 4)))]
        return draw(st.permutations(ours + foreign))

    user: dict[str, object] = {"id": "u", "data": [{"id": "7"}]}
    if draw(st.booleans()):
        user["eids"] = eids()
    if draw(st.booleans()):
        user["ext"] = {"consent": "CO", "eids": eids()}
    return user


def _usual(draw: st.DrawFn) -> object:
    request: dict[str, object] = {"id": "r1", "imp": [{"id": "1", "bidfloor": 1.1}], "user": draw(_plain(_usual_user))}
    if draw(st.booleans()):
        request["site"] = {"page": "https://www.example.com/a?b=c", "ref": "x"}
    return request


def _with_separators(request: object, separators: tuple[str, str]) -> bytes:
    return json.dumps(request, separators=separators).encode()


usual_bid_requests: st.SearchStrategy[bytes] = st.builds(
    _with_separators, _plain(_usual), st.sampled_from([(",", ":"), (", ", ": ")])
)
