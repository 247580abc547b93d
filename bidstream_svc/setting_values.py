"""Parsers of the values of settings: text to value; each raises ValueError with the problem, without a secret."""

import os
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from bidstream_svc.addresses import ListenAddress, parse_host_names, parse_listen_addresses
from bidstream_svc.core.identity import IdentityScope

_MAX_WORKERS = 256
# Heartbeats are half a second apart, and a busy machine may delay one.
_MIN_HANG_TIMEOUT_S = 2
_SIZE_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def to_text(text: str) -> str | None:
    """Any text; None for none."""
    return text or None


def to_secret(text: str) -> str | None:
    """A text that is not shown; None for none."""
    return text or None


def to_path(text: str) -> Path | None:
    """A path; None for none."""
    return Path(text) if text else None


def to_collector(text: str) -> str | None:
    """An http or https URL without user name, query and fragment; None for none."""
    # No user name, query or fragment: OpenTelemetry's own variables set headers.
    if text and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", text):
        raise ValueError("not an http or https URL")
    return text or None


def to_addresses(text: str) -> tuple[ListenAddress, ...]:
    """Listening addresses."""
    return parse_listen_addresses(text)


def to_names(text: str) -> frozenset[str]:
    """Host names."""
    return parse_host_names(text)


def to_boolean(text: str) -> bool:
    """1 or 0, or a word for it."""
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ValueError("not a boolean") from None


def to_number(text: str) -> float:
    """A finite number."""
    try:
        number = float(text)
    except ValueError:
        raise ValueError("not a valid number") from None
    if not isfinite(number):
        raise ValueError("not a finite number")
    return number


def to_positive(text: str) -> float:
    """A number greater than 0."""
    number = to_number(text)
    if number <= 0:
        raise ValueError("must be greater than 0")
    return number


def to_not_negative(text: str) -> float:
    """A number of at least 0."""
    number = to_number(text)
    if number < 0:
        raise ValueError("must be greater than or equal to 0")
    return number


def to_hang_timeout(text: str) -> float:
    """Seconds."""
    number = to_number(text)
    if number < _MIN_HANG_TIMEOUT_S:
        raise ValueError(f"must be greater than or equal to {_MIN_HANG_TIMEOUT_S}")
    return number


def to_count(text: str) -> int:
    """An integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        raise ValueError("not an integer") from None
    if number < 1:
        raise ValueError("must be greater than or equal to 1")
    return number


def to_size(text: str) -> int:
    """Parse a number of bytes: digits, and KiB, MiB or GiB."""
    found = re.fullmatch(r"([1-9][0-9]{0,11}) ?(KiB|MiB|GiB)?", text.strip())
    if found is None:
        raise ValueError("not a size such as 64MiB")
    return int(found[1]) * _SIZE_UNITS[found[2] or ""]


def to_workers(text: str) -> int:
    """A number of processes, or `auto`."""
    number = len(os.sched_getaffinity(0)) if text == "auto" else to_count(text)
    if number > _MAX_WORKERS:
        raise ValueError(f"must be less than or equal to {_MAX_WORKERS}")
    return number


def to_log_level(text: str) -> str:
    """A level: debug, info, warning or error."""
    if text not in {"debug", "info", "warning", "error"}:
        raise ValueError("not one of 'debug', 'info', 'warning' or 'error'")
    return text


def to_log_format(text: str) -> str:
    """A format: json or console."""
    if text not in {"json", "console"}:
        raise ValueError("not one of 'json' or 'console'")
    return text


def to_eid_sources(text: str) -> Mapping[str, IdentityScope]:
    """Parse `SOURCE=UID2,SOURCE=EUID`: sources of OpenRTB eids, in lower case, and their programmes."""
    sources: dict[str, IdentityScope] = {}
    for part in text.split(","):
        source, _, scope = (word.strip() for word in part.partition("="))
        if not re.fullmatch(r"[!-<>-~]+", source) or scope not in IdentityScope.__members__:
            raise ValueError("not a list such as uidapi.com=UID2,euid.eu=EUID")
        if source.lower() in sources:
            raise ValueError(f"{source} is given twice")
        sources[source.lower()] = IdentityScope[scope]
    return sources


def to_url_path(text: str) -> str:
    """The path of a URL."""
    if not re.fullmatch(r"/[!-\"$->@-~]*", text):
        raise ValueError("not a path such as /optout")
    return text.rstrip("/") or "/"


def to_parameter(text: str) -> str:
    """The name of a parameter in a query."""
    if not re.fullmatch(r"[A-Za-z0-9_.~-]+", text):
        raise ValueError("not a name of letters, digits, _, ., ~ and -")
    return text


def to_stream(text: str) -> str | None:
    """The URL of a Redis or Valkey server, without a password; None for none."""
    if text and not re.fullmatch(r"rediss?://[^\s/?#@]+(/[0-9]+)?|unix:///[^\s?#@]+(\?db=[0-9]+)?", text):
        raise ValueError("not a URL such as redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH?db=DB")
    return text or None


def to_stream_name(text: str) -> str:
    """The name of a stream."""
    if not re.fullmatch(r"[!-~]{1,255}", text):
        raise ValueError("not a name of printable ASCII without spaces")
    return text


def to_when_stale(text: str) -> str:
    """What happens while the store is stale: serve or withhold."""
    if text not in {"serve", "withhold"}:
        raise ValueError("not one of 'serve' or 'withhold'")
    return text
