"""The hot lane: the plain case of a request answered without a task and without a request object.

aiohttp defines what HTTP means here. The lane knows a strict subset of it by heart and is only a faster way to the
same answers; whatever it does not know is handed to aiohttp on the same transport, with the bytes read so far.
"""

from bidstream_svc.server.lane.lane import Lane

__all__ = ["Lane"]
