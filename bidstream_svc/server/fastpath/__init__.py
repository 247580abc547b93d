"""The fast path: plain requests, answered without a task and without a request object.

aiohttp defines what HTTP means here. The fast path knows a strict subset of it, and only gets to the same answers
sooner; every other request is handed over to aiohttp on the same transport, with the bytes that have been read.
"""

from bidstream_svc.server.fastpath.fastpath import FastPath

__all__ = ["FastPath"]
