"""Misbehaviour on request: what an operator, or something between it and its client, may do wrong."""

from dataclasses import dataclass
from enum import Enum, auto


class Fault(Enum):
    """A way to answer wrongly."""

    SERVER_ERROR = auto()  # 500
    UNAUTHORIZED = auto()  # 401
    TOO_MANY_REQUESTS = auto()  # 429
    REDIRECT = auto()  # 302 to a path that does not exist
    HTML_ERROR = auto()  # 502 with a page of a proxy
    HTML_PAGE = auto()  # 200 with a page of a proxy
    HANG_BEFORE_ANSWER = auto()  # until the client goes away
    HANG_IN_BODY = auto()  # headers and half of the body, then nothing until the client goes away
    RESET = auto()  # TCP RST instead of an answer
    CUT_BODY = auto()  # the connection ends in the middle of the body
    TRUNCATED_BODY = auto()  # a complete answer whose envelope lacks its end
    GARBAGE_BODY = auto()  # 200 with bytes that are neither base64 nor an envelope
    HUGE_BODY = auto()  # 17 MiB and no Content-Length
    WRONG_NONCE = auto()  # an envelope with another nonce
    WRONG_SECRET = auto()  # an envelope under another secret
    NOT_JSON = auto()  # an envelope around something else
    EXPIRED_KEYS = auto()  # key endpoints: all keys have expired
    EMPTY_KEYS = auto()  # key endpoints: no keys
    OTHER_SCOPE = auto()  # key endpoints: the other identity scope


_KEY_FAULTS = {Fault.EXPIRED_KEYS, Fault.EMPTY_KEYS, Fault.OTHER_SCOPE}
_KEY_PATHS = {"/v2/key/bidstream", "/v2/key/sharing"}


@dataclass(slots=True)
class _Order:
    fault: Fault
    path: str | None
    times: int | None

    def is_for(self, path: str) -> bool:
        return self.path in {None, path} and (self.fault not in _KEY_FAULTS or path in _KEY_PATHS)


class Faults:
    """What goes wrong next; orders are served first in, first out, each for its endpoint."""

    def __init__(self) -> None:
        self._orders: list[_Order] = []

    def inject(self, fault: Fault, *, path: str | None = None, times: int | None = 1) -> None:
        """Let the next `times` answers (None: all) of `path` (None: any endpoint) go wrong."""
        self._orders.append(_Order(fault, path, times))

    def clear(self) -> None:
        """Behave again."""
        self._orders.clear()

    def take(self, path: str) -> Fault | None:
        """What to do wrong with a request for `path` that just came; counts as one time."""
        for order in self._orders:
            if order.is_for(path):
                if order.times is not None:
                    order.times -= 1
                    if order.times <= 0:
                        self._orders.remove(order)
                return order.fault
        return None
