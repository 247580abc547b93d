"""How a programme's service sends opt-outs: its requests, and what each answer means to it. Without I/O.

Source: docs/optouts.md, "What to agree with the programme". The head has the lines of Java's HTTP client, which the
service uses, in their order: it offers HTTP/2 with every request over plain TCP, and its GET has a Content-Length.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlencode

import pybase64
from yarl import URL

from bidstream_svc._version import __version__
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope, IdentityType

_LENGTHS = (32, 33)  # of a raw uid
_SCOPE_SHIFT, _TYPE_SHIFT = 4, 2  # in the first byte of a raw uid of 33 bytes

ACCEPTED = frozenset({200, 204})
RETRIED = frozenset({429, 500, 502, 503, 504})

_H2C_OFFER = "Connection: Upgrade, HTTP2-Settings"
_H2C_SETTINGS = ("HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA", "Upgrade: h2c")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OWN_HEADERS = {"connection", "content-length", "host", "http2-settings", "transfer-encoding", "upgrade", "user-agent"}


class OptOutEntry(NamedTuple):
    """An opt-out to send.

    Attributes:
        number: its place in the input, from 1. Reports name it in place of the raw uid.
        raw_id: 32 or 33 bytes.
        time_s: when the person opted out, Unix time.
    """

    number: int
    raw_id: bytes
    time_s: int

    def __repr__(self) -> str:
        """Without the raw uid."""
        return f"OptOutEntry({self.number}, {len(self.raw_id)} bytes)"


@dataclass(frozen=True, slots=True)
class SenderHabits:
    """How the sender behaves. What the programme and the DSP agree on are parameters.

    Attributes:
        method: GET or POST; a POST has an empty body.
        id_parameter, time_parameter: names in the query.
        headers: fixed headers, names and values.
        offers_h2c: whether requests over plain TCP offer an upgrade to HTTP/2.
        timeout_s: limit from the start of a request to the end of the answer.
        retries, retry_pause_s: how often an entry is sent again after a status of RETRIED, and the pause before.
        replays: how often all entries are sent again from the first.
        replay_after_s: the pause before, if an entry failed.
    """

    method: str = "GET"
    id_parameter: str = "identity"
    time_parameter: str = "timestamp"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    offers_h2c: bool = True
    timeout_s: float = 30.0
    retries: int = 10
    retry_pause_s: float = 6.0
    replays: int = 0
    replay_after_s: float = 3600.0


class NextStep(StrEnum):
    """What the sender does after an answer."""

    NEXT_ENTRY = "next entry"
    RETRY = "retry"
    STOP = "stop"


def next_step(status: int | None) -> NextStep:
    """What follows from a status; None for no complete answer."""
    if status in ACCEPTED:
        return NextStep.NEXT_ENTRY
    return NextStep.RETRY if status in RETRIED else NextStep.STOP


class Endpoint:
    """The URL that requests go to.

    Args:
        text: http or https; it may have a query, to which the parameters are added.

    Raises:
        ConfigurationError: it is not such a URL. The message does not contain it, because it may hold a secret.
    """

    def __init__(self, text: str) -> None:
        try:
            url = URL(text.strip())
            host, port = url.raw_host, url.port
        except ValueError:
            url, host, port = URL(), None, None
        if url.scheme not in {"http", "https"} or not host or not port:
            raise ConfigurationError("URL: not an http or https URL; e.g. https://dsp.example/optout")
        if url.user is not None or url.password is not None:
            raise ConfigurationError("URL: has a user name; fixed headers are taken from files")
        self.host = host
        self.port = port
        self.is_tls = url.scheme == "https"
        self.authority = url.raw_authority
        self.target = url.raw_path_qs

    def __repr__(self) -> str:
        """Without path and query."""
        return f"Endpoint({self.authority!r})"


class RequestBuilder:
    """Builds the requests to an endpoint.

    Raises:
        ConfigurationError: a fixed header is malformed, or one that the sender sets itself.
    """

    def __init__(self, endpoint: Endpoint, habits: SenderHabits) -> None:
        _check_headers(habits.headers)
        self._start = f"{habits.method} {endpoint.target}{'&' if '?' in endpoint.target else '?'}"
        self._names = habits.id_parameter, habits.time_parameter
        offers_h2c = habits.offers_h2c and not endpoint.is_tls
        lines = [
            *((_H2C_OFFER,) if offers_h2c else ()),
            "Content-Length: 0",
            f"Host: {endpoint.authority}",
            *(_H2C_SETTINGS if offers_h2c else ()),
            f"User-Agent: bidstream-svc/{__version__}",
            *(f"{name}: {value}" for name, value in habits.headers),
        ]
        self._head = "\r\n".join([" HTTP/1.1", *lines, "", ""])

    def build(self, entry: OptOutEntry) -> bytes:
        """The bytes of the request for an entry."""
        text = pybase64.b64encode_as_string(entry.raw_id)
        query = urlencode([*zip(self._names, (text, entry.time_s), strict=True)])
        return f"{self._start}{query}{self._head}".encode("latin-1")


def made_up_entries(count: int, scope: IdentityScope, seed: int, time_s: int) -> Iterator[OptOutEntry]:
    """Entries with raw uids of nobody, half of them of 32 bytes; the same for the same seed."""
    generator = random.Random(f"opt-outs {scope.name} {seed}")  # noqa: S311 - reproducible on purpose
    for number in range(1, count + 1):
        length = generator.choice(_LENGTHS)
        raw_id = generator.randbytes(length)
        if length == _LENGTHS[1]:
            first = scope << _SCOPE_SHIFT | generator.choice([*IdentityType]) << _TYPE_SHIFT
            raw_id = bytes([first]) + raw_id[1:]
        yield OptOutEntry(number, raw_id, time_s)


def with_duplicates(entries: Iterable[OptOutEntry], percent: float, seed: int) -> Iterator[OptOutEntry]:
    """The entries, a share of them twice in a row."""
    generator = random.Random(f"duplicates {seed}")  # noqa: S311 - reproducible on purpose
    for entry in entries:
        yield entry
        if generator.random() * 100 < percent:
            yield entry


def _check_headers(headers: Iterable[tuple[str, str]]) -> None:
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError("a fixed header is malformed; NAME: VALUE is needed")
        if name.lower() in _OWN_HEADERS:
            raise ConfigurationError(f"fixed header {name}: the sender sets it itself")
