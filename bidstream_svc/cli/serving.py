"""What the commands that serve have in common: settings, their log, and their end."""

import os
import signal
import sys
from collections.abc import Collection

from bidstream_svc.config import SETTINGS, Settings, env_name, unknown_variables
from bidstream_svc.logs import configure_logging, get_logger
from bidstream_svc.loop_thread import LoopThread

# Settings of every process that serves.
OF_SERVING = (
    "admin_listen",
    "allowed_hosts",
    "max_buffered",
    "hang_timeout",
    "idle_timeout",
    "request_timeout",
    "drain_timeout",
    "log_level",
    "log_format",
)
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}


def begin_log(settings: Settings, *, used: Collection[str] = tuple(SETTINGS)) -> None:
    """Configure the log, and write which variables are not settings, or not of this command.

    Args:
        settings: tell how to log.
        used: the settings that the command has.
    """
    configure_logging(settings.log_level, settings.log_format)
    log = get_logger(__name__)
    for name, nearest in unknown_variables(os.environ).items():
        log.warning("unknown setting", variable=name, did_you_mean=nearest)
    unused = [env_name(name) for name in SETTINGS if name not in used and env_name(name) in os.environ]
    if unused:
        log.warning("settings without effect", variables=unused)


def is_stopped_early() -> bool:
    """Whether a stop signal came before the start, which is logged."""
    if signal.sigpending() & _STOP_SIGNALS:
        get_logger(__name__).info("stopped")
        return True
    return False


def end_serving() -> None:
    """End the process if threads have been left behind."""
    if LoopThread.left_behind:
        # At its end, the interpreter would wait for look-ups of names that these threads have started.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
