"""The service without its fast path: aiohttp answers every request. Settings are those of `bidstream-svc serve`."""

import asyncio

from bidstream_svc.config import load_settings
from bidstream_svc.logs import configure_logging
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.running import run
from bidstream_svc.server.service import Service
from bidstream_svc.server.sockets import open_listeners_each


async def serve_without_fast_path() -> None:
    """Serve until the process is stopped."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    (listeners,) = open_listeners_each(settings, workers=1)
    async with Service(settings, listeners, MetricCells(labels_of(ROUTES)), has_fast_path=False):
        await asyncio.Event().wait()


if __name__ == "__main__":
    run(serve_without_fast_path())
