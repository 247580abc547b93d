"""Logs: one JSON object a line on stderr, or coloured text on a terminal.

What other libraries log passes through the same renderer. A traceback is reduced to the exception's type and to
where it passed: an exception's message and a frame's values may hold a token or a uid.
"""

import logging
import sys
import traceback
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from bidstream_svc.core.errors import BidstreamError

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events take key-value pairs."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure_logging(level: str, log_format: str | None, stream: TextIO = sys.stderr) -> None:
    """Set up logging for the whole process.

    Args:
        level: debug, info, warning or error.
        log_format: "json", "console", or None for console on a terminal and json elsewhere.
        stream: where the lines go.
    """
    is_console = log_format == "console" or (log_format is None and stream.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _reduce_exception,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if is_console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # aiohttp's own access log would name every path; asyncio's debug lines name sockets.
    logging.getLogger("aiohttp.access").disabled = True
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _reduce_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type, our own message if it is ours, and the places it passed."""
    exc_info = event.pop("exc_info", None)
    if not exc_info:
        return event
    error = exc_info if isinstance(exc_info, BaseException) else _error_of(exc_info)
    if error is not None:
        event["exception"] = type(error).__qualname__
        if isinstance(error, BidstreamError):
            event["error"] = str(error)
        event["passed"] = [
            f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
    return event


def _error_of(exc_info: _ExcInfo | bool) -> BaseException | None:  # noqa: FBT001 - logging's own convention
    return exc_info[1] if isinstance(exc_info, tuple) else sys.exception()
