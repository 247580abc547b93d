"""The fast path: answers plain requests without a task or a request object.

aiohttp is the reference implementation of the data plane's HTTP. The fast path implements a strict subset, the plain
requests that `heads` defines, with the same answers. A connection with any other request is handed over to aiohttp on
the same transport, with the bytes received so far, and comes back at the next plain request.
"""

from bidstream_svc.server.fastpath.fastpath import FastPath

__all__ = ["FastPath"]
