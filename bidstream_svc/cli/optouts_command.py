"""`bidstream-svc optouts`: the opt-out store, its receiver, and the programme's sender."""

import signal

import click

from bidstream_svc.cli import EARLY_SIGNALS
from bidstream_svc.cli.lazy_commands import LazyCommands

_PLACES = {
    "import": "optouts_import_command.import_",
    "export": "optouts_export_command.export",
    "stat": "optouts_stat_command.stat",
    "check": "optouts_check_command.check",
    "send": "optouts_send_command.send",
    "serve": "optouts_serve_command.serve",
}


@click.group(commands=LazyCommands(_PLACES))
@click.pass_context
def optouts(context: click.Context) -> None:
    """Opt-outs: their store, its receiver, and a test sender."""
    if context.invoked_subcommand != "serve":  # which handles them from its start
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)
