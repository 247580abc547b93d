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
from bidstream_svc.core.decrypt import decrypt as decrypt_token
from bidstream_svc.server.answers import verdict_body


@click.command()
@click.argument("tokens", nargs=-1, metavar="[TOKEN]...")
@click.option("--domain", help="the site's domain or the app's bundle id, for tokens generated on the client side")
@click.option("--keys", type=INPUT_FILE, help="file with a key response in JSON, instead of a call")
@setting_options(*OPERATOR_FIELDS)
@click.pass_context
def decrypt(
    context: click.Context, /, *, tokens: tuple[str, ...], domain: str | None, keys: Path | None, **flags: Any
) -> None:
    """Decrypt tokens from the arguments, or from stdin one per line.

    Prints one JSON object per line. The exit status is 1 if a token was not decrypted.
    """
    if keys == STDIN and not tokens:
        raise click.UsageError("stdin cannot hold both keys and tokens; name a file in --keys")
    snapshot = fetch_once(**provided(flags)) if keys is None else read_key_file(keys)
    failed = total = 0
    for token in tokens or _stdin_lines():
        verdict = decrypt_token(token, domain, snapshot, wall_clock_ms())
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
