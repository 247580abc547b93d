"""`bidstream-svc decrypt`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from bidstream_svc.cli.bid_requests import decrypt_bid_requests
from bidstream_svc.cli.inputs import INPUT_FILE, STDIN, open_input
from bidstream_svc.cli.key_source import fetch_once, read_key_files
from bidstream_svc.cli.line_reader import LineReader
from bidstream_svc.cli.options import OPERATOR_FIELDS, provided, setting_options
from bidstream_svc.cli.streams import emit, tell
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.config import SETTINGS, load_settings
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
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
@click.option(
    "--keys",
    type=INPUT_FILE,
    multiple=True,
    help="file with a key response in JSON, instead of a call to the operator; once for each programme",
)
@click.option(
    "--scope", type=click.Choice([scope.name for scope in IdentityScope]), help="the programme of version 2 tokens"
)
@setting_options(*OPERATOR_FIELDS, "eid_sources")
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
    given = provided(flags)
    if keys:  # the settings of operators are of no use
        others = SETTINGS.keys() - {"eid_sources"}
        settings = load_settings(**given | dict.fromkeys(others))
        snapshots = read_key_files(keys)
    else:
        settings = load_settings(**given)
        snapshots = [fetch_once(operator) for operator in settings.operators]
    if bid_requests is not None:
        is_good = decrypt_bid_requests(bid_requests, snapshots, settings.eid_sources)
    else:
        requested = None if scope is None else IdentityScope[scope]
        is_good = _decrypt_tokens(tokens or _stdin_lines(), domain, requested, snapshots)
    if not is_good:
        context.exit(1)


def _decrypt_tokens(
    tokens: Iterable[str], domain: str | None, requested: IdentityScope | None, snapshots: Iterable[KeySnapshot]
) -> bool:
    """Print the verdict of each token. Returns whether all are SUCCESS."""
    decrypt_token = bind_programmes([Programme(snapshot.scope, snapshot) for snapshot in snapshots])
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
