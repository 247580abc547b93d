"""A moment on the command line: ISO 8601, or Unix time in seconds or milliseconds."""

import re
from datetime import UTC, datetime, timedelta

import click

from bidstream_svc.core.units import MS_PER_S

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[0-9]{1,14}", re.ASCII)
# Numbers below are seconds, others milliseconds: the year 5138 in one unit, 1973 in the other.
_LEAST_MS = 10**11


def parse_moment(text: str) -> int:
    """Return Unix ms. A time without a zone is in UTC.

    Raises:
        ValueError: it is no time.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = int(text)
        return number * MS_PER_S if number < _LEAST_MS else number
    if text.isdecimal():
        raise ValueError("too large for milliseconds")
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment_or_none(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Callback of an option: Unix ms, or None if the option is not given."""
    if text is None:
        return None
    try:
        return parse_moment(text)
    except ValueError:
        raise click.BadParameter("a time is as 2026-11-26T20:00:00Z, or Unix time in seconds or milliseconds") from None
