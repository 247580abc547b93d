"""`bidstream-svc decrypt`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bidstream_svc.cli.key_source import fetch_once, read_key_file
from bidstream_svc.cli.options import OPERATOR_FIELDS, provided, setting_options
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.decrypt import decrypt as decrypt_token
from bidstream_svc.server.answers import verdict_body


@click.command()
@click.argument("tokens", nargs=-1, metavar="[TOKEN]...")
@click.option("--domain", help="the site's domain or the app's bundle id that the tokens came with")
@click.option("--keys", type=click.Path(path_type=Path), help="a key response in JSON, instead of asking the operator")
@setting_options(*OPERATOR_FIELDS)
@click.pass_context
def decrypt(
    context: click.Context, /, *, tokens: tuple[str, ...], domain: str | None, keys: Path | None, **flags: Any
) -> None:
    """Decrypt tokens, from arguments or one a line from stdin; prints one JSON object a line.

    Exit status 1 if any token did not decrypt.
    """
    snapshot = fetch_once(**provided(flags)) if keys is None else read_key_file(keys)
    failed = total = 0
    for token in tokens or _lines():
        verdict = decrypt_token(token, domain, snapshot, wall_clock_ms())
        click.echo(verdict_body(verdict))
        total += 1
        failed += verdict[3] is not None
    if failed:
        click.echo(f"bidstream-svc: {failed} of {total} tokens did not decrypt", err=True)
        context.exit(1)


def _lines() -> Iterator[str]:
    return (line.strip() for line in sys.stdin if line.strip())
