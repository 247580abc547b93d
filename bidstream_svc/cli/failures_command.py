"""`bidstream-svc failures`: whose the tokens are that are not decrypted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from unicodedata import east_asian_width
from urllib.parse import urlsplit

import click

from bidstream_svc.addresses import BoundAddress, TcpAddress
from bidstream_svc.cli.admin_connection import connect, reachable
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.streams import emit
from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import BidstreamError

_PATH = "/failures"
_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 1024**2
_DEFAULT_PORT = 9464
_COLUMNS = 80
_HEAD = ("share", "failures", "site", "scope", "reason", "name", "")
_REASONS_SHOWN = 2


@click.command()
@click.option("--url", metavar="URL", help="admin plane to ask, http://HOST:PORT [default: that of this host]")
@click.option("--json", "as_json", is_flag=True, help="print the answer of the admin plane")
@setting_options("admin_listen")
def failures(*, url: str | None, as_json: bool, **flags: Any) -> None:
    """Print the sites whose tokens failed most in the last hour.

    The figures are estimates from a sample. `reason` is a site's most frequent reason, with its share of the site's
    failures. `name` is the domain or the app's bundle id that came most often with its tokens, with its share.
    """
    address = reachable(load_settings(**provided(flags)).admin_listen) if url is None else _parse_url(url)
    answer = _ask(address)
    try:
        table = list(_table(answer))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _not_ours(address) from None
    for line in [json.dumps(answer)] if as_json else table:
        emit(line)


def _parse_url(url: str) -> TcpAddress:
    parts = urlsplit(url)
    try:
        port = parts.port or _DEFAULT_PORT
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise click.UsageError("--url: http://HOST:PORT of an admin plane is needed")
    return TcpAddress(parts.hostname, port)


def _ask(address: BoundAddress) -> Any:
    """Return the answer of an admin plane.

    Raises:
        BidstreamError: there is none, or it is another service.
    """
    try:
        with closing(connect(address, _TIMEOUT_S)) as connection:
            connection.request("GET", _PATH)
            response = connection.getresponse()
            body = response.read(_MAX_ANSWER_BYTES)
        if response.status != HTTPStatus.OK:
            raise BidstreamError(f"{_PATH} at {address}: {response.status}")
        return json.loads(body)
    except OSError as error:
        raise BidstreamError(f"{_PATH} at {address}: no answer: {error.strerror or error}") from None
    except (HTTPException, ValueError):
        raise _not_ours(address) from None


def _not_ours(address: BoundAddress) -> BidstreamError:
    return BidstreamError(f"{_PATH} at {address}: the answer is not from bidstream-svc")


def _table(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines for people."""
    total, minutes = answer["failures"], max(1, round(answer["window_s"] / 60))
    span = "last minute" if minutes == 1 else f"last {minutes} minutes"
    if not total:
        yield f"No token failed in the {span}."
        return
    yield f"Not decrypted in the {span}: {total:,} tokens."
    yield f"Looked at: {answer['sampled']:,}. {_error(answer['share_error'])}"
    yield ""
    yield from _align([_HEAD, *map(_row, answer["sites"])])
    without = answer["without_site"]
    if without["failures"]:
        yield ""
        share = _percent(without["failures"] / total)
        yield _clip(f"Site unknown: {without['failures']:,} ({share}): {_reasons(without['reasons'])}", _COLUMNS)


def _row(site: Mapping[str, Any]) -> tuple[str, ...]:
    reason = _reasons(dict(list(site["reasons"].items())[:1]))
    name, name_share = _printable(site["name"] or "-"), f" {site['name_share']:.0%}" if site["name"] else ""
    return (
        _percent(site["share"]),
        f"{site['failures']:,}",
        str(site["site_id"]),
        site["scope"],
        reason,
        name,
        name_share,
    )


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of 80 columns at most: figures to the right, and the names take what is left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, name, name_share in rows:
        figures = [cell.rjust(width) for cell, width in zip(cells[:3], widths, strict=False)]
        words = [cell.ljust(width) for cell, width in zip(cells[3:], widths[3:], strict=False)]
        head = "  ".join([*figures, *words, ""])
        yield f"{head}{_clip(name, _COLUMNS - len(head) - len(name_share))}{name_share}"


def _reasons(shares: Mapping[str, float]) -> str:
    most = list(shares.items())[:_REASONS_SHOWN]
    return ", ".join(f"{_printable(reason)} {share:.0%}" for reason, share in most)


def _error(share_error: float) -> str:
    if not share_error:
        return "The shares of the sites are exact."
    return f"A site's share is right within {max(0.1, 100 * share_error):.1f} percentage points."


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share < 0.995 else "100%"  # noqa: PLR2004 - what would be rounded to 100.0


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _clip(text: str, columns: int) -> str:
    """Shorten a text to this many columns of a terminal."""
    widths = [2 if east_asian_width(character) in "WF" else 1 for character in text]
    if sum(widths) <= columns:
        return text
    used = length = 0
    while used + widths[length] <= columns - 3:
        used += widths[length]
        length += 1
    return text[:length] + "..."
