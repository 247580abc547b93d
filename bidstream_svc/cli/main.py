"""The command `bidstream-svc`.

Exit status: 0 for success, 1 for a failed operation, 2 for wrong usage or configuration. Errors are one line on stderr.
"""

import os
import sys
from collections import UserDict
from collections.abc import Iterator
from importlib import import_module

import click

from bidstream_svc._version import __version__
from bidstream_svc.core.errors import BidstreamError, ConfigurationError

EXIT_FAILED = 1
EXIT_USAGE = 2

# Each is defined in the module `<name>_command`.
_NAMES = ("serve", "operator", "decrypt", "request", "token", "identity", "check", "health")


class _Commands(UserDict[str, click.Command]):
    """The commands by name. A command's module is imported on first use, so that each command starts fast."""

    def __getitem__(self, name: str) -> click.Command:
        if name not in _NAMES:
            raise KeyError(name)
        command: click.Command = getattr(import_module(f"bidstream_svc.cli.{name}_command"), name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)

    def __contains__(self, name: object) -> bool:
        return name in _NAMES


@click.group(commands=_Commands(), context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="bidstream-svc")
@click.pass_context
def commands(context: click.Context) -> None:
    """Decryption of UID2 and EUID advertising tokens: a sidecar for bidders, and related tools."""
    if context.invoked_subcommand == "health":
        return
    from bidstream_svc.logs import configure_logging  # noqa: PLC0415 - `health` starts faster without

    # Without this, retries of calls would be logged on stdout, amid the output. `serve` configures logging again.
    configure_logging("error", None)


def main() -> None:
    """Run the command line and exit."""
    _open_closed_streams()
    try:
        # click returns the exit status, or None for 0.
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


def _open_closed_streams() -> None:
    """Open /dev/null for the standard streams with which the process was started closed.

    Otherwise a socket would get one of their descriptors, and libuv aborts the process when it closes such a socket.
    `sys.stdin` stays None, so that a command that reads it can report an error.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # returns the lowest free descriptor, which is this one
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
