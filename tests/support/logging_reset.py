"""Undoes `configure_logging`, which is meant to run once per process."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def logging_as_before() -> Iterator[None]:
    """Restore logging at the end, and let every logger of ours look up its configuration anew."""
    root, asyncio_log, access_log = (logging.getLogger(name) for name in (None, "asyncio", "aiohttp.access"))
    before = root.handlers, root.level, asyncio_log.level, access_log.disabled
    structlog_before = structlog.get_config()
    try:
        yield
    finally:
        root.handlers, root.level, asyncio_log.level, access_log.disabled = before
        structlog.configure(**structlog_before)
        for name, module in list(sys.modules.items()):
            if name.startswith("bidstream_svc."):
                # Where structlog keeps what a logger was first used with.
                vars(vars(module).get("_log", root)).pop("bind", None)
