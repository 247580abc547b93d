"""Logging: one JSON object per line on stderr, or coloured text on a terminal.

Other libraries' records go through the same renderer. An exception is logged as its type and the locations in its
traceback. Its message is logged only if it is a BidstreamError, whose messages contain no secrets. Other messages, and
the values of local variables, may contain a token or a uid.

The last events of the process are kept for whoever asks for them later, as they were written.
"""

import logging
import sys
import traceback
from collections import deque
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from bidstream_svc.core.errors import BidstreamError

_MAX_RECENT = 200
_MAX_RECENT_FRAMES = 20  # of the traceback of one of them
_recent: deque[EventDict] = deque(maxlen=_MAX_RECENT)

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger whose events take key-value pairs."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def recent_events() -> list[EventDict]:
    """Return the last events that this process has written, the oldest first: at most 200."""
    return list(_recent)


def configure_logging(level: str, log_format: str | None, stream: TextIO = sys.stderr) -> None:
    """Set up logging for the whole process.

    Args:
        level: debug, info, warning or error.
        log_format: "json", "console", or None for console on a terminal and json elsewhere.
        stream: where to write.
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
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _keep, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # aiohttp's access log contains paths; asyncio's debug records contain sockets.
    logging.getLogger("aiohttp.access").disabled = True
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _keep(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Keep an event that is about to be written. Any thread may call this."""
    kept = dict(event)
    if "traceback" in kept:
        kept["traceback"] = kept["traceback"][-_MAX_RECENT_FRAMES:]
    _recent.append(kept)
    return event


def _reduce_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type, its message if it is a BidstreamError, and its traceback."""
    exc_info = event.pop("exc_info", None)
    if not exc_info:
        return event
    error = exc_info if isinstance(exc_info, BaseException) else _exception_of(exc_info)
    if error is not None:
        event["exception"] = type(error).__qualname__
        if isinstance(error, BidstreamError):
            event["error"] = str(error)
        event["traceback"] = [
            # Not traceback.extract_tb, which reads the source files, and this may be the serving loop.
            f"{frame.f_code.co_filename.rpartition('site-packages/')[2]}:{line} {frame.f_code.co_name}"
            for frame, line in traceback.walk_tb(error.__traceback__)
        ]
    return event


def _exception_of(exc_info: _ExcInfo | bool) -> BaseException | None:  # noqa: FBT001 - logging's own convention
    return exc_info[1] if isinstance(exc_info, tuple) else sys.exception()
