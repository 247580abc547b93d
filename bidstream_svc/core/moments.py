"""Moments as text or numbers: ISO 8601, or Unix time in seconds or milliseconds."""

import re
from datetime import UTC, datetime, timedelta

from bidstream_svc.core.units import MS_PER_S

# Numbers below are seconds, others milliseconds: the year 5138 in one unit, 1973 in the other.
LEAST_MS = 10**11
# Numbers from here on are in a smaller unit, and no moment.
MOST_MS = 10**14
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[0-9]{1,14}", re.ASCII)


def parse_moment(text: str) -> int:
    """Return Unix ms. A time without a zone is in UTC.

    Raises:
        ValueError: it is no time.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = int(text)
        return number * MS_PER_S if number < LEAST_MS else number
    if text.isdecimal():
        raise ValueError("too large for milliseconds")
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)
