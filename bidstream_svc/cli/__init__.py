"""The command line interface."""

import signal

# They wait until the command handles them. Before, Ctrl-C would print a traceback of the imports, and SIGHUP or SIGTERM
# would end `serve` without a log.
EARLY_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM})


def main() -> None:
    """Run the command line and exit."""
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
    from bidstream_svc.cli.commands import main as run_commands  # noqa: PLC0415 - its imports can be interrupted

    run_commands()
