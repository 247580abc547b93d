"""`bidstream-svc explain`."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from bidstream_svc.cli.explain_report import Look, report_bid_request, report_token
from bidstream_svc.cli.inputs import INPUT_FILE, STDIN, read_any_text, read_bytes
from bidstream_svc.cli.line_reader import InputError, LineReader
from bidstream_svc.cli.streams import emit
from bidstream_svc.cli.time_option import moment_or_none
from bidstream_svc.cli.token_options import Judges, open_judges, scope_of, token_options
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.explain import BidRequestExplanation, Explanation, explain_bid_request, explain_token, to_json
from bidstream_svc.core.openrtb import MAX_BID_REQUEST_BYTES

_WIDTH, _MIN_WIDTH = 80, 40


@click.command()
@click.argument("tokens", nargs=-1, metavar="[TOKEN]")
@click.option("--domain", help="the site's domain or the app's bundle id, for tokens generated on the client side")
@click.option(
    "--bid-request", type=INPUT_FILE, help="file with an OpenRTB bid request, instead of a token; `-` for stdin"
)
@click.option(
    "--at",
    callback=moment_or_none,
    metavar="TIME",
    help="judge as of this time: as 2026-11-26T20:00:00Z, or Unix time in seconds or milliseconds [default: now]",
)
@click.option("--json", "is_json", is_flag=True, help="print JSON")
@click.option("--reveal", is_flag=True, help="show raw uids, which are personal data")
@token_options
@click.pass_context
def explain(
    context: click.Context,
    /,
    *,
    tokens: tuple[str, ...],
    domain: str | None,
    bid_request: Path | None,
    at: int | None,
    is_json: bool,
    reveal: bool,
    keys: tuple[Path, ...],
    scope: str | None,
    **flags: Any,
) -> None:
    """Explain why a token gets its verdict, step by step.

    The token is the argument, or all of stdin. With --bid-request, explains each token of a bid request, and why other
    eids are not ours. The exit status is 1 if a token was not decrypted.
    """
    if len(tokens) > 1:
        raise click.UsageError("one token at a time is explained")  # click would repeat the others
    if bid_request is not None and (tokens or domain is not None or scope is not None):
        raise click.UsageError("--bid-request takes token, domain and programme from the bid request alone")
    if STDIN in keys and not tokens and bid_request is None:
        raise click.UsageError("stdin cannot hold both keys and the token; name a file in --keys")
    now_ms = wall_clock_ms() if at is None else at
    explanation: Explanation | BidRequestExplanation
    if bid_request is not None:
        body = _read_bid_request(bid_request)
        explanation = _explain_bid_request(body, open_judges(keys, flags), now_ms)
        is_good = all(eid.explanation is None or eid.explanation.reason is None for eid in explanation.eids)
        lines = report_bid_request(explanation, now_ms, _look(), reveal=reveal)
    else:
        token = tokens[0] if tokens else _read_token()
        judges = open_judges(keys, flags)
        find_optout = None if judges.optouts is None else judges.optouts.find_times
        explanation = explain_token(token, domain, judges.programmes, scope_of(scope), now_ms, find_optout)
        is_good = explanation.reason is None
        lines = report_token(explanation, now_ms, _look(), reveal=reveal)
    emit(json.dumps(to_json(explanation, reveal=reveal)) if is_json else "\n".join(lines))
    if not is_good:
        context.exit(1)


def _explain_bid_request(body: bytes, judges: Judges, now_ms: int) -> BidRequestExplanation:
    find_optout = None if judges.optouts is None else judges.optouts.find_times
    return explain_bid_request(body, judges.programmes, judges.settings.eid_sources, now_ms, find_optout)


def _read_token() -> str:
    token = read_any_text(None).strip()
    if not token:
        raise InputError("there is no token in the input")
    return token


def _read_bid_request(path: Path) -> bytes:
    reader = LineReader(io.BytesIO(read_bytes(path)), errors="surrogateescape")
    body = reader.read().encode("utf-8", "surrogateescape")
    if len(body) > MAX_BID_REQUEST_BYTES:
        raise BidRequestError(f"a bid request has at most {MAX_BID_REQUEST_BYTES // 1024} KiB")
    return body


def _look() -> Look:
    """How to print on this stdout: in colours on a terminal only, without marks that its encoding lacks."""
    is_terminal = sys.stdout.isatty()
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    width = shutil.get_terminal_size((_WIDTH, 0)).columns if is_terminal else _WIDTH
    return Look(
        width=max(_MIN_WIDTH, min(width, _WIDTH)),
        is_coloured=is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        is_unicode=encoding.startswith("utf"),
    )
