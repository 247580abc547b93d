"""`bidstream-svc decrypt`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bidstream_svc.cli.inputs import INPUT_FILE, STDIN, open_input
from bidstream_svc.cli.key_source import fetch_once, read_key_file
from bidstream_svc.cli.line_reader import LineReader
from bidstream_svc.cli.options import OPERATOR_FIELDS, provided, setting_options
from bidstream_svc.cli.streams import emit, tell
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.config import load_settings
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.server.answers import verdict_body


@click.command()
@click.argument("tokens", nargs=-1, metavar="[TOKEN]...")
@click.option("--domain", help="the site's domain or the app's bundle id, for tokens generated on the client side")
@click.option("--keys", type=INPUT_FILE, help="file with a key response in JSON, instead of a call")
@click.option(
    "--scope", type=click.Choice([scope.name for scope in IdentityScope]), help="the programme of version 2 tokens"
)
@setting_options(*OPERATOR_FIELDS)
@click.pass_context
def decrypt(
    context: click.Context,
    /,
    *,
    tokens: tuple[str, ...],
    domain: str | None,
    keys: Path | None,
    scope: str | None,
    **flags: Any,
) -> None:
    """Decrypt tokens from the arguments, or from stdin one per line.

    Prints one JSON object per line. The exit status is 1 if a token was not decrypted.
    """
    if keys == STDIN and not tokens:
        raise click.UsageError("stdin cannot hold both keys and tokens; name a file in --keys")
    if keys is None:
        snapshots = [fetch_once(operator) for operator in load_settings(**provided(flags)).operators]
    else:
        snapshots = [read_key_file(keys)]
    decrypt_token = bind_programmes([Programme(snapshot.scope, snapshot) for snapshot in snapshots])
    requested = None if scope is None else IdentityScope[scope]
    failed = total = 0
    for token in tokens or _stdin_lines():
        verdict, _ = decrypt_token(token, domain, requested, wall_clock_ms())
        emit(verdict_body(verdict))
        total += 1
        failed += verdict[3] is not None
    if not total:
        tell("bidstream-svc: no tokens in the input")
    if failed:
        tell(f"bidstream-svc: {failed} of {total} tokens were not decrypted")
        context.exit(1)


def _stdin_lines() -> Iterator[str]:
    with open_input(None) as file:
        for line in LineReader(file):
            if token := line.strip():
                yield token
