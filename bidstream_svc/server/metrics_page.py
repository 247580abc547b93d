"""The content of `/metrics`."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_OPENMETRICS_END = b"# EOF\n"


class Page(NamedTuple):
    """A rendering; `began_s` is the monotonic clock when it began, in seconds."""

    content_type: str
    body: bytes
    began_s: float


class MetricsPage:
    """Renders the metrics of a registry. Requests that arrive while a rendering is awaited share it.

    Args:
        registry: the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        # It is passed on in the order of arrival, so that one response is made per loop iteration.
        self._lock = asyncio.Lock()
        self._page = Page("", b"", 0.0)

    async def render(self, accept: str) -> Page:
        """Return the page in the format that an `Accept` header asks for, with values no older than the call."""
        encode, content_type = _choose_encoder(accept)
        arrived_s = time.monotonic()
        async with self._lock:
            page = self._page
            if page.content_type != content_type or page.began_s < arrived_s:
                began_s = time.monotonic()
                self._page = page = Page(content_type, await self._encode(encode), began_s)
            return page

    async def _encode(self, encode: Callable[[Collector], bytes]) -> bytes:
        """Encode one family per loop iteration, so that the GIL is never held for long."""
        parts, end = [], b""
        for family in self._registry.collect():
            part = encode(_OneFamily(family))
            if part.endswith(_OPENMETRICS_END):
                part, end = part.removesuffix(_OPENMETRICS_END), _OPENMETRICS_END
            parts.append(part)
            await asyncio.sleep(0)
        return b"".join([*parts, end])


class _OneFamily(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _choose_encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (ValueError, TypeError):  # a malformed version
        return choose_encoder("")
