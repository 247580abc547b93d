"""The log of commands that are no service: errors only, on stderr."""


def start_error_log() -> None:
    """Set up logging. May be called again.

    Without it, retries of calls would be logged on stdout, amid the output. `serve` configures logging again.
    """
    from bidstream_svc.logs import configure_logging  # noqa: PLC0415 - with structlog and asyncio: a tenth of a start

    configure_logging("error", None)
