"""What a request to the webhook for opt-outs says, read from its path and its query. Pure.

    GET /optout?identity=<raw uid in base64, percent-encoded>&timestamp=<Unix seconds>

The programme of a raw uid of 33 bytes is told by its first byte. For one of 32 bytes it is that of the only operator in
the settings, or UID2. A path that ends in /uid2 or /euid names the programme of all of its ids.
"""

from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from bidstream_svc.core.errors import OptOutRecordError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_records import OptOut, clamp_time_s, decode_raw_id, scope_of_raw_id

# What is kept of a malformed id.
_MAX_KEPT_CHARACTERS = 512
_MAX_TIME_DIGITS = 10
_MAX_BASE64_LENGTH = 44  # of a raw uid, with padding


class Malformed(NamedTuple):
    """A request from which no opt-out can be read.

    Attributes:
        problem: what is wrong with it, without what was sent.
        text: the value of the parameter, or the query if it has none or several, cut to 512 characters.
    """

    problem: str
    text: str


class Webhook:
    """Reads requests.

    Args:
        path: the path of the webhook.
        id_parameter: the name of the parameter with the raw uid.
        time_parameter: the name of the one with the time.
        scope: the programme of raw uids that do not tell theirs.
    """

    def __init__(self, path: str, id_parameter: str, time_parameter: str, scope: IdentityScope) -> None:
        named = {f"{path.rstrip('/')}/{each.name.lower()}": each for each in IdentityScope}
        self._scopes: dict[str, IdentityScope | None] = {path: None, **named}
        self._id_parameter = id_parameter
        self._time_parameter = time_parameter
        self._default_scope = scope

    def has_path(self, path: str) -> bool:
        """Whether a path is one of the webhook; a slash at its end is ignored."""
        return _without_slash(path) in self._scopes

    def read(self, path: str, query: str, now_s: int) -> OptOut | Malformed:
        """Read the path and the query of a request.

        Args:
            path: one that `has_path`.
            query: as it was sent, without the question mark.
            now_s: when it arrived, Unix seconds.
        """
        parameters = list(_parameters(query))
        texts = {value for name, value in parameters if name == self._id_parameter}
        if len(texts) != 1:
            problem = "several ids" if texts else "no id parameter"
            return Malformed(problem, query[:_MAX_KEPT_CHARACTERS])
        (text,) = texts
        try:
            raw_id = decode_raw_id(_with_plus_signs(text))
        except OptOutRecordError:
            return Malformed("not a raw uid", text[:_MAX_KEPT_CHARACTERS])
        scope = self._scopes[_without_slash(path)]
        if scope is None:
            scope = scope_of_raw_id(raw_id)
        if scope is None:
            scope = self._default_scope
        return OptOut(scope, raw_id, now_s, _read_time(dict(parameters).get(self._time_parameter, "")))


def _without_slash(path: str) -> str:
    return path.rstrip("/") or "/"


def _parameters(query: str) -> Iterator[tuple[str, str]]:
    """Yield names and values. A plus sign stands for itself, because base64 has it."""
    for field in query.split("&"):
        name, _, value = field.partition("=")
        yield _unquote(name), _unquote(value)


def _unquote(text: str) -> str:
    return unquote_to_bytes(text.encode("utf-8", "replace")).decode("utf-8", "replace") if "%" in text else text


def _with_plus_signs(text: str) -> str:
    """Return base64 with the plus signs that somebody has taken for spaces on the way.

    A space at the end or the beginning of a text that is long enough without it is none: with a plus sign in its place,
    an id of 32 bytes would become another one, of 33.
    """
    text = text.strip("\t\r\n")
    return (text.strip() if len(text) > _MAX_BASE64_LENGTH else text).replace(" ", "+")


def _read_time(text: str) -> int | None:
    """Return Unix seconds; None for anything else: the opt-out counts without a time, too."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MAX_TIME_DIGITS
    return clamp_time_s(int(text)) if is_number else None
