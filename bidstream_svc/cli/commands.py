"""The command `bidstream-svc`.

Exit status: 0 for success, 1 for a failed operation, 2 for wrong usage or configuration. Errors are one line on stderr.
"""

import atexit
import resource
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import click

from bidstream_svc._version import __version__
from bidstream_svc.cli import EARLY_SIGNALS
from bidstream_svc.cli.error_log import start_error_log
from bidstream_svc.cli.lazy_commands import LazyCommands
from bidstream_svc.cli.streams import (
    describe,
    discard_output,
    finish_errors,
    finish_output,
    message_of,
    prepare_streams,
    tell,
)
from bidstream_svc.core.errors import BidstreamError, ConfigurationError

EXIT_FAILED = 1
EXIT_USAGE = 2

_NAMES = (
    "serve",
    "relay",
    "operator",
    "decrypt",
    "bulk",
    "explain",
    "failures",
    "request",
    "token",
    "identity",
    "optouts",
    "check",
    "health",
)
# They handle signals from their start.
_SERVERS = ("serve", "relay", "optouts")
# They start faster. `bulk` has a log as soon as anything can be logged.
_WITHOUT_LOG = ("health", "bulk")


@click.group(
    commands=LazyCommands({name: f"{name}_command.{name}" for name in _NAMES}),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="bidstream-svc")
@click.pass_context
def commands(context: click.Context) -> None:
    """Decryption of UID2 and EUID advertising tokens: a sidecar for bidders, and related tools."""
    if context.invoked_subcommand not in _SERVERS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)
    if context.invoked_subcommand not in _WITHOUT_LOG:
        start_error_log()


def main() -> None:
    """Run the command line and exit."""
    prepare_streams()
    # A core dump would contain keys, tokens or raw uids.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # While the interpreter shuts down, Ctrl-C would print a traceback. Nothing is left to be interrupted by then.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
    status = _run()
    finish_errors()
    sys.exit(status)


def _run() -> int:
    """Run the command line and return the exit status. Every error is one line on stderr."""
    try:
        # click returns the exit status, or None for 0.
        status: int | None = commands.main(prog_name="bidstream-svc", standalone_mode=False)
        finish_output()
    except BrokenPipeError:
        discard_output()
        return EXIT_FAILED
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted")
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except ConfigurationError as error:
        return _fail(message_of(error), EXIT_USAGE)
    except BidstreamError as error:
        return _fail(message_of(error))
    except OSError as error:  # from output that click has written, such as --help
        discard_output()
        return _fail(f"cannot write the output: {describe(error)}")
    except Exception as error:  # noqa: BLE001 - a traceback is of no use to users, and its message may hold their data
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        return _fail(f"internal error: {type(error).__name__} at {place}; please report it")
    return status or 0


def _fail(reason: str, status: int = EXIT_FAILED) -> int:
    tell(f"bidstream-svc: {reason}")
    return status
