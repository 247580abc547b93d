"""A moment on the command line: ISO 8601, or Unix time in seconds or milliseconds."""

import click

from bidstream_svc.core.moments import parse_moment


def moment_or_none(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Callback of an option: Unix ms, or None if the option is not given."""
    if text is None:
        return None
    try:
        return parse_moment(text)
    except ValueError:
        raise click.BadParameter("a time is as 2026-11-26T20:00:00Z, or Unix time in seconds or milliseconds") from None
