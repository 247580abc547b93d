"""How far the hosts of a fleet are with the stream of opt-outs, by what their `/info` tells."""

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.core.moments import parse_moment

_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 1024**2
_MAX_CONCURRENCY = 32
# Entries are on their way for about a second, so a host that is behind is asked again before that is said of it.
_CATCH_UP_S = 5.0
_ASK_AGAIN_S = 0.25
_DEFAULT_PORT = 9464


class Applied(NamedTuple):
    """A place in the stream: EPOCH/SEQUENCE, as /info tells them."""

    epoch: str
    sequence: int


@dataclass(slots=True)
class Host:
    """A host, and what it answered last.

    Attributes:
        address, port: of its admin plane.
        answer: `optouts` of its /info, or why there is none in `error`.
    """

    address: str
    port: int
    answer: dict[str, Any] = field(default_factory=dict)

    def ask(self) -> None:
        """Ask for /info."""
        self.answer = _ask(self.address, self.port)

    @property
    def applied(self) -> Applied | None:
        """How far it has read the stream; None if it has read nothing, or does not say."""
        try:
            position = self.answer["optouts"]["position"]
            return Applied(str(position["epoch"]), int(position["sequence"]))
        except (KeyError, TypeError, ValueError):
            return None

    def has_applied(self, goal: Applied | None) -> bool:
        """Whether it has read the stream up to a place; no place is far for anybody."""
        applied = self.applied
        if goal is None or applied is None:
            return goal is None
        return applied.epoch == goal.epoch and applied.sequence >= goal.sequence

    def was_level_at(self, time_ms: int) -> bool:
        """Whether it has been known to have all of the stream at or after a time, in Unix ms."""
        try:
            return parse_moment(self.answer["optouts"]["last_contact"]) >= time_ms
        except (AttributeError, KeyError, TypeError, ValueError):
            return False  # it was never in contact

    def problems(self, goal: Applied | None) -> list[str]:
        """What is wrong with it: any of `no answer`, `stale`, `gap`, `behind`."""
        optouts = self.answer.get("optouts")
        if optouts is None:
            return ["no answer"]
        stream = optouts.get("stream")
        found = {
            "stale": bool(optouts.get("stale")),
            "gap": isinstance(stream, dict) and bool(stream.get("gap")),
            "behind": not self.has_applied(goal),
        }
        return [name for name, is_so in found.items() if is_so]


def find_hosts(urls: Iterable[str]) -> list[Host]:
    """Return a host for each address behind the URLs of admin planes.

    Raises:
        click.UsageError: a URL is none of an admin plane.
        BidstreamError: a name has no address.
    """
    return [Host(address, port) for url in urls for address, port in _resolve(url)]


def ask_hosts(hosts: Sequence[Host]) -> Applied | None:
    """Ask all hosts; those that are not as far as the furthest one was at first, again for some seconds.

    Returns:
        How far the furthest one was; None if no host has read a stream.
    """
    with ThreadPoolExecutor(_MAX_CONCURRENCY) as threads:
        _each(threads, hosts, Host.ask)
        goal = _furthest([applied for host in hosts if (applied := host.applied) is not None])
        deadline_s = time.monotonic() + _CATCH_UP_S
        while behind := [host for host in hosts if "optouts" in host.answer and not host.has_applied(goal)]:
            if time.monotonic() >= deadline_s:
                break
            time.sleep(_ASK_AGAIN_S)
            _each(threads, behind, Host.ask)
    return goal


def count_problems(problems: Iterable[Sequence[str]]) -> str:
    """Say how many hosts have each problem, such as `1 stale, 2 behind`."""
    counts = Counter(problem for of_host in problems for problem in of_host)
    return ", ".join(f"{count} {problem}" for problem, count in counts.items())


def _each(threads: ThreadPoolExecutor, hosts: Iterable[Host], act: Callable[[Host], None]) -> None:
    list(threads.map(act, hosts))


def _furthest(places: Sequence[Applied]) -> Applied | None:
    """Return the last place in the stream that most are in: nobody knows which of two streams is the newer one."""
    if not places:
        return None
    ((epoch, _),) = Counter(place.epoch for place in places).most_common(1)
    return max(place for place in places if place.epoch == epoch)


def _resolve(url: str) -> list[tuple[str, int]]:
    """Return the address and the port of each host behind a URL."""
    try:
        scheme, name, port = (parts := urlsplit(url)).scheme, parts.hostname, parts.port or _DEFAULT_PORT
    except ValueError:  # the port is no number, or too large
        scheme, name, port = "", None, 0
    if scheme != "http" or not name:
        raise click.UsageError("--fleet: http://HOST:PORT of an admin plane is needed")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BidstreamError(f"{name}: {error.strerror}") from None
    except UnicodeError:  # of the encoding of international names
        raise click.UsageError("--fleet: the name of a host is malformed") from None
    return [(address, port) for address in dict.fromkeys(str(each[4][0]) for each in found)]


def _ask(address: str, port: int) -> dict[str, Any]:
    """Return what a host's /info tells of opt-outs, or why it does not."""
    connection = HTTPConnection(address, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/info")
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
        if response.status != HTTPStatus.OK:
            return {"error": f"/info answers {response.status}"}
        optouts = json.loads(body).get("optouts")
    except OSError as error:
        return {"error": error.strerror or str(error) or type(error).__name__}
    except (HTTPException, ValueError, AttributeError):
        return {"error": "the answer is not from bidstream-svc"}
    finally:
        connection.close()
    return {"optouts": optouts} if isinstance(optouts, dict) else {"error": "it has no opt-out store"}
