"""`bidstream-svc optouts send`: plays a programme's sender against a receiver of opt-outs, and tells its faults."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import click
import orjson

from bidstream_svc.addresses import is_loopback_host
from bidstream_svc.cli.inputs import INPUT_FILE, read_text
from bidstream_svc.cli.line_reader import InputError
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.optout_entries import read_entries
from bidstream_svc.cli.streams import emit, tell
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.config import SETTINGS, Settings, env_name, load_settings
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.files import read_secret_file
from bidstream_svc.optouts.sender import Endpoint, OptOutEntry, SenderHabits, made_up_entries, with_duplicates
from bidstream_svc.optouts.sender_report import Finding, SenderReport
from bidstream_svc.optouts.sending import Load, Sending

_SECONDS = click.FloatRange(min=0)
_SETTINGS = ("optout_id_parameter", "optout_time_parameter", "optout_auth_token_file")
_POSITIVE_SECONDS = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("url")
@click.option("--ids", type=INPUT_FILE, help="file with a raw uid per line, or `raw uid,Unix time`; `-` for stdin")
@click.option("--count", type=click.IntRange(min=1), default=1000, show_default=True, help="made-up raw uids to send")
@click.option(
    "--scope",
    type=click.Choice([scope.name for scope in IdentityScope]),
    default=IdentityScope.UID2.name,
    show_default=True,
    help="their programme",
)
@click.option("--seed", type=int, default=0, show_default=True, help="the same seed makes the same raw uids")
@click.option("--duplicates", type=click.FloatRange(0, 100), default=0, help="percentage that is sent twice")
@click.option("--method", type=click.Choice(["GET", "POST"]), default="GET", show_default=True)
@click.option("--headers-file", type=INPUT_FILE, help="file with fixed headers, `Name: value` per line")
@click.option("--h2c/--no-h2c", default=True, help="offer HTTP/2 with each request over plain http, as Java does")
@click.option("--timeout", type=_POSITIVE_SECONDS, default=30.0, show_default=True, help="seconds for an answer")
@click.option("--retries", type=click.IntRange(min=0), default=10, show_default=True, help="after 429 and most 5xx")
@click.option("--retry-pause", type=_SECONDS, default=6.0, show_default=True, help="seconds before a retry")
@click.option("--replays", type=click.IntRange(min=0), default=0, help="how often all are sent again, after the first")
@click.option(
    "--replay-after", type=_SECONDS, default=3600.0, show_default=True, help="seconds before, if an opt-out failed"
)
@click.option("--slow", type=_POSITIVE_SECONDS, default=0.5, show_default=True, help="seconds that p99 may take")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="opt-outs per second at most")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="connections at a time; more than 1 for load tests only, a programme never does so",
)
@click.option("--allow-insecure", is_flag=True, help="allow secrets and real raw uids over plain http to another host")
@click.option("--json", "as_json", is_flag=True, help="print the report as one line of JSON")
@setting_options(*_SETTINGS)
@click.pass_context
def send(context: click.Context, /, *, url: str, as_json: bool, **options: Any) -> None:
    """Send opt-outs to a receiver as a programme does.

    Sends them strictly in order, each after the answer to the one before, to the URL. 200 and 204 are success; 429,
    500, 502, 503 and 504 are tried again after a pause; after anything else it stops. Prints what the receiver got
    wrong and what that costs. The exit status is 1 if there is anything.

    The receiver keeps what it accepts, for ever: send made-up raw uids to a receiver for tests only.
    """
    endpoint = Endpoint(url)
    settings = _settings(options)
    headers = _fixed_headers(options["headers_file"], settings.optout_auth_token_file)
    if not (options["allow_insecure"] or endpoint.is_tls or is_loopback_host(endpoint.host)):
        _check_confidential(has_headers=bool(headers), has_real_ids=options["ids"] is not None)
    report = SenderReport(options["slow"])
    sending = Sending(
        endpoint,
        _habits(options, settings, headers),
        Load(options["rate"], options["concurrency"]),
        _entries(options),
        report=report,
        tell=tell,
    )
    started = monotonic()
    is_complete = False
    try:
        is_complete = asyncio.run(sending.run())
    except KeyboardInterrupt:
        tell("interrupted")
    findings, seconds = report.findings(), monotonic() - started
    emit(_json(report, findings, seconds) if as_json else _text(report, findings, seconds))
    if findings or not is_complete:
        context.exit(1)


def _settings(options: dict[str, Any]) -> Settings:
    """The settings that are flags here; all others, and their problems, are of no use."""
    given = provided({name: options[name] for name in _SETTINGS})
    return load_settings(**given | dict.fromkeys(SETTINGS.keys() - {*_SETTINGS}))


def _fixed_headers(path: Path | None, token_file: Path | None) -> tuple[tuple[str, str], ...]:
    """The headers in a file, and the bearer token of another.

    Raises:
        ConfigurationError, InputError: a file cannot be read or is malformed.
    """
    headers = []
    for line in read_text(path, "a line `Name: value`").splitlines() if path is not None else ():
        name, colon, value = line.partition(":")
        if not colon:
            raise InputError("--headers-file: a line without a colon; `Name: value` is needed")
        headers.append((name.strip(), value.strip()))
    if token_file is not None:
        token = read_secret_file(token_file, env_name("optout_auth_token_file")).decode("latin-1")
        headers.append(("Authorization", f"Bearer {token}"))
    return tuple(headers)


def _check_confidential(*, has_headers: bool, has_real_ids: bool) -> None:
    """Refuse to send what is confidential in the clear."""
    if has_headers or has_real_ids:
        what = "fixed headers" if has_headers else "raw uids"
        raise ConfigurationError(f"URL: {what} would go over plain http to another host; use https or --allow-insecure")


def _habits(options: dict[str, Any], settings: Settings, headers: tuple[tuple[str, str], ...]) -> SenderHabits:
    return SenderHabits(
        method=options["method"],
        id_parameter=settings.optout_id_parameter,
        time_parameter=settings.optout_time_parameter,
        headers=headers,
        offers_h2c=options["h2c"],
        timeout_s=options["timeout"],
        retries=options["retries"],
        retry_pause_s=options["retry_pause"],
        replays=options["replays"],
        replay_after_s=options["replay_after"],
    )


def _entries(options: dict[str, Any]) -> Callable[[], Iterable[OptOutEntry]]:
    """What each pass sends. A file is read as a whole, so that a malformed line is found before anything is sent."""
    time_s = wall_clock_ms() // MS_PER_S
    scope, seed = IdentityScope[options["scope"]], options["seed"]
    source: Callable[[], Iterable[OptOutEntry]] = partial(made_up_entries, options["count"], scope, seed, time_s)
    if options["ids"] is not None:
        entries = [*read_entries(options["ids"], time_s)]
        if not entries:
            raise InputError("no raw uids in the input")
        source = entries.copy
    return lambda: with_duplicates(source(), options["duplicates"], seed)


def _text(report: SenderReport, findings: list[Finding], seconds: float) -> str:
    counts, latencies = report.counts, report.latencies_ms
    lines = [f"{counts['requests']} requests in {seconds:.1f} s, {counts['accepted']} accepted"]
    if latencies is not None:
        lines.append(f"answers took p50 {latencies.p50:g} ms, p99 {latencies.p99:g} ms, max {latencies.max:g} ms")
    lines += [f"fault: {finding}" for finding in findings] or ["nothing to complain about"]
    return "\n".join(lines)


def _json(report: SenderReport, findings: list[Finding], seconds: float) -> bytes:
    latencies = report.latencies_ms
    return orjson.dumps(
        {
            **report.counts,
            "seconds": round(seconds, 3),
            "latency_ms": None if latencies is None else latencies._asdict(),
            "faults": [
                {
                    "fault": finding.fault,
                    "seen": finding.seen,
                    "count": finding.times,
                    "first_entry": finding.first and finding.first.number,
                    "cost": finding.cost,
                }
                for finding in findings
            ],
        }
    )
