"""The log of the opt-out store: the service's, or `logging` in a program that uses the Python API.

The API does without structlog, and prints nothing where `logging` is not configured.
"""

import logging
import sys

_SERVICE_LOGS = "bidstream_svc.logs"  # imported only by the service and the commands

logging.getLogger("bidstream_svc").addHandler(logging.NullHandler())


class EventLogger:
    """Logs events that have fields, as the loggers of `logs` do."""

    def __init__(self, name: str) -> None:
        self._name = name

    def info(self, event: str, **fields: object) -> None:
        """Log what needs no attention."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what may need attention."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what needs attention."""
        self._log(logging.ERROR, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, object]) -> None:
        logs = sys.modules.get(_SERVICE_LOGS)
        if logs is not None:
            logs.get_logger(self._name).log(level, event, **fields)
        else:
            shown = ", ".join(f"{name}={value}" for name, value in fields.items())
            logging.getLogger(self._name).log(level, "%s: %s", event, shown)


def get_logger(name: str) -> EventLogger:
    """Return the logger of a module."""
    return EventLogger(name)
