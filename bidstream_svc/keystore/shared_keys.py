"""The last good key response of all workers, for a worker that starts while the operator cannot be reached.

It is kept in memory that the workers inherit from their parent, exactly as the operator encrypted it.
"""

import fcntl
import os
from collections.abc import Callable

from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.logs import get_logger
from bidstream_svc.operator.key_fetch import FetchedKeys, open_cached_keys

_log = get_logger(__name__)


def make_shared_file() -> int:
    """Return the descriptor of a new file in memory, for the SharedKeys of workers that are forked afterwards."""
    return os.memfd_create("key-response")


class SharedKeys:
    """A key response that the workers share. Its methods log failures and never raise.

    Args:
        descriptor: of a file from `make_shared_file`.
        client_secret: returns the secret (32 bytes) that decrypts the response; may raise a BidstreamError.
    """

    def __init__(self, descriptor: int, client_secret: Callable[[], bytes]) -> None:
        self._descriptor = descriptor
        self._client_secret = client_secret

    def load(self) -> FetchedKeys | None:
        """Load the response that a worker left. Returns None if there is none, or it cannot be read or decrypted.

        A response that is only half written is recognised, because it is authenticated.
        """
        try:
            wire = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
            return open_cached_keys(wire, self._client_secret()) if wire else None
        except OSError as error:
            _log.warning("keys of other workers ignored", error=error.strerror)
        except BidstreamError as error:
            _log.warning("keys of other workers ignored", error=str(error))
        return None

    def save(self, wire: bytes) -> None:
        """Replace the response, unless another worker is doing so at this moment.

        Args:
            wire: the response as the operator sent it, encrypted.
        """
        try:
            # The kernel releases the lock of a worker that ends. One that is stopped must not block the others.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                os.pwrite(self._descriptor, wire, 0)
                os.ftruncate(self._descriptor, len(wire))
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        except BlockingIOError:
            pass
        except OSError as error:
            _log.warning("keys not left for other workers", error=error.strerror)
