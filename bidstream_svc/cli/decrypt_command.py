"""`bidstream-svc decrypt`."""

from collections.abc import Iterable, Iterator, Sequence
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
from bidstream_svc.config import SETTINGS, Settings, env_name, load_settings
from bidstream_svc.core.decrypt import CheckOptOut
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import bind_keys
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.optouts.optout_reader import OptOutReader
from bidstream_svc.server.answers import verdict_body

# What counts where keys come from files, too.
_SETTINGS_WITH_KEY_FILES = {"eid_sources", "optout_store", "optout_stream", "optout_when_stale"}


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
@click.option(
    "--optouts",
    "optout_store",
    metavar="DIR",
    help=f"opt-out store, whose raw uids are not printed [{env_name('optout_store')}]",
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
        settings = load_settings(**given | dict.fromkeys(SETTINGS.keys() - _SETTINGS_WITH_KEY_FILES))
        snapshots = read_key_files(keys)
    else:
        settings = load_settings(**given)
        snapshots = [fetch_once(operator) for operator in settings.operators]
    check_optout = _open_optouts(settings)
    if bid_requests is not None:
        is_good = decrypt_bid_requests(bid_requests, bind_keys(snapshots, settings.eid_sources, check_optout))
    else:
        requested = None if scope is None else IdentityScope[scope]
        programmes = [Programme(keys.scope, keys, check_optout=check_optout) for keys in snapshots]
        is_good = _decrypt_tokens(tokens or _stdin_lines(), domain, requested, programmes)
    if not is_good:
        context.exit(1)


def _open_optouts(settings: Settings) -> CheckOptOut | None:
    if settings.optout_store is None:
        return None
    return OptOutReader(settings.optout_store, withholds=settings.optout_when_stale == "withhold").check


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
