"""A plain implementation of docs/openrtb.md: slow, recursive, with a JSON parser of its own.

It shares no code with `bidstream_svc.core.openrtb`, except `decrypt` with one name at a time.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.keys import KeySnapshot

MAX_IDS = 100
MAX_DEPTH = 64
SOURCES = {"uidapi.com": "UID2", "euid.eu": "EUID"}
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+)', re.DOTALL)


class Node:
    """A JSON value that remembers its spelling, and all members of an object, overridden ones, too."""

    def __init__(self, kind: str, raw: str = "") -> None:
        self.kind = kind
        self.raw = raw
        self.members: list[tuple[str, Node]] = []  # names as they are spelled
        self.elements: list[Node] = []

    def value(self) -> Any:
        return json.loads(self.raw)

    def named(self, name: str) -> list["Node"]:
        return [node for spelling, node in self.members if json.loads(spelling) == name]

    def get(self, name: str) -> "Node":
        found = self.named(name)
        return found[-1] if found else Node("absent")

    def render(self) -> str:
        """The text without white space between values."""
        if self.kind == "object":
            return "{" + ",".join(f"{name}:{node.render()}" for name, node in self.members) + "}"
        if self.kind == "array":
            return "[" + ",".join(node.render() for node in self.elements) + "]"
        return self.raw


class NotABidRequestError(Exception):
    """The body is not a bid request."""


def parse(body: bytes) -> Node:
    def refuse(_constant: str) -> NoReturn:
        raise NotABidRequestError

    try:
        text = body.decode("utf-8").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
        whole = json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        raise NotABidRequestError from None
    if not isinstance(whole, dict) or _depth(whole) > MAX_DEPTH:
        raise NotABidRequestError
    return _read(_TOKEN.finditer(text))


def _depth(value: object) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _read(tokens: Iterator[re.Match[str]], first: str | None = None) -> Node:
    token = first or next(tokens)[1]
    if token == "[":
        node = Node("array")
        while (token := next(tokens)[1]) != "]":
            if token != ",":
                node.elements.append(_read(tokens, token))
        return node
    if token == "{":
        node = Node("object")
        while (name := next(tokens)[1]) != "}":
            if name != ",":
                assert next(tokens)[1] == ":"
                node.members.append((name, _read(tokens)))
        return node
    return Node("string" if token.startswith('"') else "other", token)


class Expected(NamedTuple):
    """What `/openrtb` and `/openrtb/rewrite` answer."""

    id: str | None
    ids: list[dict[str, Any]]
    rewritten: str

    def answer(self) -> dict[str, Any]:
        return {"id": self.id, "ids": self.ids}


def expected(body: bytes, keys: list[KeySnapshot], now_ms: int) -> Expected:
    whole = parse(body)
    request = context = whole
    prefix = ""
    wrapped = whole.get("openrtb")
    if wrapped.kind == "object":
        request = wrapped.get("request")
        context, prefix = request.get("context"), "/openrtb/request/context"
    names = list(_names(context))
    ids: list[dict[str, Any]] = []
    replaced: dict[int, str] = {}  # by the `id()` of the node of a token
    user = context.get("user")
    for eids, path in ((user.get("eids"), "user/eids"), (user.get("ext").get("eids"), "user/ext/eids")):
        for index, eid in enumerate(eids.elements):
            scope = _scope(eid)
            for number, uid in enumerate(eid.get("uids").elements if scope else []):
                token = uid.get("id")
                if token.kind == "string" and len(ids) < MAX_IDS:
                    found = {
                        "path": f"{prefix}/{path}/{index}/uids/{number}",
                        "source": eid.get("source").value(),
                        "scope": scope,
                        **_verdict(token.value(), names, keys, scope, now_ms),
                    }
                    ids.append(found)
                    if found["status"] == "SUCCESS":
                        replaced[id(token)] = found["uid"]
    _rewrite(whole, replaced)
    request_id = request.get("id")
    return Expected(request_id.value() if request_id.kind == "string" else None, ids, whole.render())


def _scope(eid: Node) -> str | None:
    source = eid.get("source")
    return SOURCES.get(source.value().lower()) if source.kind == "string" and source.raw.isascii() else None


def _verdict(
    token: str, names: list[tuple[str, str]], keys: list[KeySnapshot], scope: str | None, now_ms: int
) -> dict[str, Any]:
    """Try one name after the other, each as if it were the only one."""
    matched = None
    snapshot = next((each for each in keys if each.scope.name == scope), None)
    status, uid, established, _ = decrypt(token, None, snapshot, now_ms)
    for field, name in names if status == "DOMAIN_NAME_CHECK_FAILED" else []:
        status, uid, established, _ = decrypt(token, name, snapshot, now_ms)
        if status != "DOMAIN_NAME_CHECK_FAILED":
            matched = field
            break
    return {"status": str(status), "uid": uid, "established": established, "matched": matched}


def _rewrite(whole: Node, replaced: dict[int, str]) -> None:
    for wrapped in whole.named("openrtb"):
        for request in wrapped.named("request"):
            for context in request.named("context"):
                _rewrite_users(context, replaced)
    if whole.get("openrtb").kind != "object":
        _rewrite_users(whole, replaced)


def _rewrite_users(context: Node, replaced: dict[int, str]) -> None:
    for user in context.named("user"):
        for eids in [*user.named("eids"), *(eids for ext in user.named("ext") for eids in ext.named("eids"))]:
            eids.elements = [eid for eid in eids.elements if not (_scope(eid) and _loses_all(eid, replaced))]


def _loses_all(eid: Node, replaced: dict[int, str]) -> bool:
    before = len(eid.get("uids").elements)
    for uids in eid.named("uids"):
        uids.elements = [uid for uid in uids.elements if not _is_removed(uid, replaced)]
    return before > 0 and not eid.get("uids").elements


def _is_removed(uid: Node, replaced: dict[int, str]) -> bool:
    last = uid.get("id")
    uid.members = [(name, node) for name, node in uid.members if json.loads(name) != "id" or node is last]
    if last.kind != "string":
        return False
    if id(last) not in replaced:
        return True
    last.raw = json.dumps(replaced[id(last)], ensure_ascii=False)
    return False


def _names(context: Node) -> Iterator[tuple[str, str]]:
    site, app = context.get("site"), context.get("app")
    for name in ("domain", "page"):
        yield f"site.{name}", _host(site.get(name))
    for name in ("bundle", "storeid"):
        node = app.get(name)
        text = node.value().strip() if node.kind == "string" else ""
        if node.kind == "other" and re.fullmatch(r"[0-9]+(\.0+)?", node.raw):
            text = node.raw.partition(".")[0]
        yield f"app.{name}", re.sub(r"(?i)\Aid([0-9]+)\Z", r"\1", text)
    yield "app.domain", _host(app.get("domain"))
    yield "app.storeurl", _store_id(app.get("storeurl"))


def _host(node: Node) -> str:
    text = node.value().strip().replace("\\", "/") if node.kind == "string" else ""
    text = re.sub(r"\A([A-Za-z][A-Za-z0-9+.-]*:/)?/+", "", text)
    host = re.split(r"[/?#]", text)[0].split("@")[-1]
    return host.split("]")[0] + "]" if host.startswith("[") else host.split(":")[0]


def _store_id(node: Node) -> str:
    text = node.value() if node.kind == "string" else ""
    text = re.sub(r"\\u003[dD]", "=", text).replace("\\u0026", "&").strip()
    try:
        parts = urlsplit(text if re.match(r"[A-Za-z]+://", text) else f"//{text.lstrip('/')}")
    except ValueError:
        return ""
    host = (parts.hostname or "").lower()
    if host in {"apps.apple.com", "itunes.apple.com"}:
        found = re.fullmatch(r"(?i)id([0-9]+)", parts.path.rstrip("/").split("/")[-1])
        return found[1] if found else ""
    is_market = parts.scheme == "market" and host == "details"
    if is_market or host in {"play.google.com", "market.android.com"}:
        return next((pair[3:] for pair in parts.query.split("&") if pair.startswith("id=")), "")
    return ""
