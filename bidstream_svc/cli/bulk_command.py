"""`bidstream-svc bulk`: logs with tokens."""

import click

from bidstream_svc.cli.lazy_commands import LazyCommands


@click.group(commands=LazyCommands({"decrypt": "bulk_decrypt_command.decrypt"}))
def bulk() -> None:
    """Decrypt logs in bulk."""
