"""The command `bidstream-svc`, and what its commands have in common.

Exit status: 0 good; 1 what was asked for failed; 2 wrong usage or configuration. Errors are one line on stderr.
"""

import sys

import click

from bidstream_svc._version import __version__
from bidstream_svc.cli.check import check
from bidstream_svc.cli.decrypt import decrypt
from bidstream_svc.cli.identity import identity
from bidstream_svc.cli.operator import operator
from bidstream_svc.cli.request import request
from bidstream_svc.cli.serve import serve
from bidstream_svc.cli.token import token
from bidstream_svc.errors import BidstreamError, ConfigurationError
from bidstream_svc.logs import configure_logging

__all__ = ["commands", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="bidstream-svc")
def commands() -> None:
    """Raw ids out of UID2/EUID advertising tokens: a sidecar for bidders, and the tools around it."""
    # Or repeated calls to an operator would be told on stdout, amid what was asked for. `serve` sets up its own.
    configure_logging("error", None)


for command in (serve, operator, decrypt, request, token, identity, check):
    commands.add_command(command)


def main() -> None:
    """Run the command line and exit."""
    try:
        # Where a command asks click to exit, it returns the status; else None, which is 0.
        sys.exit(commands.main(prog_name="bidstream-svc", standalone_mode=False))
    except click.Abort:
        click.echo("bidstream-svc: interrupted", err=True)
        sys.exit(EXIT_FAILED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigurationError as error:
        click.echo(f"bidstream-svc: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except BidstreamError as error:
        click.echo(f"bidstream-svc: {error}", err=True)
        sys.exit(EXIT_FAILED)
