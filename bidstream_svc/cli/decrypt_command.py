"""`bidstream-svc decrypt`."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from bidstream_svc.cli.bid_requests import decrypt_bid_requests
from bidstream_svc.cli.inputs import INPUT_FILE, STDIN, open_input
from bidstream_svc.cli.line_reader import LineReader
from bidstream_svc.cli.streams import emit, tell
from bidstream_svc.cli.token_options import open_judges, scope_of, token_options
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import bind_keys
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.server.answers import verdict_body


@click.command()
@click.argument("tokens", nargs=-1, metavar="[TOKEN]...")
@click.option("--domain", help="the site's domain or the app's bundle id, for tokens generated on the client side")
@click.option(
    "--bid-requests",
    type=INPUT_FILE,
    help="file with OpenRTB bid requests, one per line, instead of tokens; `-` for stdin",
)
@token_options
@click.pass_context
def decrypt(
    context: click.Context,
    /,
    *,
    tokens: tuple[str, ...],
    domain: str | None,
    bid_requests: Path | None,
    keys: tuple[Path, ...],
    scope: str | None,
    **flags: Any,
) -> None:
    """Decrypt tokens, or those in bid requests.

    Tokens are arguments, or lines of stdin. Prints one JSON object per line. The exit status is 1 if a token was not
    decrypted.
    """
    if bid_requests is not None and (tokens or domain is not None or scope is not None):
        raise click.UsageError("--bid-requests takes tokens, domains and programmes from the bid requests alone")
    if STDIN in keys and not tokens and bid_requests is None:
        raise click.UsageError("stdin cannot hold both keys and tokens; name a file in --keys")
    judges = open_judges(keys, flags)
    if bid_requests is not None:
        check_optout = None if judges.optouts is None else judges.optouts.check
        decryptor = bind_keys(judges.snapshots, judges.settings.eid_sources, check_optout)
        is_good = decrypt_bid_requests(bid_requests, decryptor)
    else:
        is_good = _decrypt_tokens(tokens or _stdin_lines(), domain, scope_of(scope), judges.programmes)
    if not is_good:
        context.exit(1)


def _decrypt_tokens(
    tokens: Iterable[str], domain: str | None, requested: IdentityScope | None, programmes: Sequence[Programme]
) -> bool:
    """Print the verdict of each token. Returns whether all are SUCCESS."""
    decrypt_token = bind_programmes(programmes)
    failed = total = 0
    for token in tokens:
        verdict, _ = decrypt_token(token, domain, requested, wall_clock_ms())
        emit(verdict_body(verdict))
        total += 1
        failed += verdict[3] is not None
    if not total:
        tell("bidstream-svc: no tokens in the input")
    if failed:
        tell(f"bidstream-svc: {failed} of {total} tokens were not decrypted")
    return not failed


def _stdin_lines() -> Iterator[str]:
    with open_input(None) as file:
        for line in LineReader(file):
            if token := line.strip():
                yield token
