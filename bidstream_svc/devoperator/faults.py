"""The faults that can be injected: those of an operator, and those of a proxy in front of it."""

from dataclasses import dataclass
from enum import Enum, auto


class Fault(Enum):
    """A kind of wrong answer."""

    SERVER_ERROR = auto()  # 500
    UNAUTHORIZED = auto()  # 401
    FORBIDDEN = auto()  # 403
    TOO_MANY_REQUESTS = auto()  # 429
    REDIRECT = auto()  # 302 to a path that does not exist
    HTML_ERROR = auto()  # 502 with a proxy's HTML page
    HTML_PAGE = auto()  # 200 with a proxy's HTML page
    HANG_BEFORE_ANSWER = auto()  # no answer until the client disconnects
    HANG_IN_BODY = auto()  # headers and half of the body, then nothing until the client disconnects
    RESET = auto()  # TCP RST instead of an answer
    CUT_BODY = auto()  # the connection is closed in the middle of the body
    TRUNCATED_BODY = auto()  # a complete answer with a truncated envelope
    GARBAGE_BODY = auto()  # 200 with bytes that are neither base64 nor an envelope
    HUGE_BODY = auto()  # 17 MiB and no Content-Length
    WRONG_NONCE = auto()  # an envelope with another nonce
    WRONG_SECRET = auto()  # an envelope encrypted with another secret
    NOT_JSON = auto()  # an envelope that does not contain JSON
    EXPIRED_KEYS = auto()  # key endpoints: all keys have expired
    EMPTY_KEYS = auto()  # key endpoints: no keys
    OTHER_SCOPE = auto()  # key endpoints: the other identity scope


_KEY_FAULTS = {Fault.EXPIRED_KEYS, Fault.EMPTY_KEYS, Fault.OTHER_SCOPE}
_KEY_PATHS = {"/v2/key/bidstream", "/v2/key/sharing"}


@dataclass(slots=True)
class _Injection:
    fault: Fault
    path: str | None
    times: int | None

    def is_for(self, path: str) -> bool:
        return self.path in {None, path} and (self.fault not in _KEY_FAULTS or path in _KEY_PATHS)


class Faults:
    """A queue of faults to inject. The first that applies to an endpoint is used."""

    def __init__(self) -> None:
        self._injections: list[_Injection] = []

    def inject(self, fault: Fault, *, path: str | None = None, times: int | None = 1) -> None:
        """Inject a fault into the next `times` answers (None: all) of `path` (None: any endpoint)."""
        self._injections.append(_Injection(fault, path, times))

    def clear(self) -> None:
        """Inject no further faults."""
        self._injections.clear()

    def take(self, path: str) -> Fault | None:
        """Return the fault for a request to `path`, or None, and count it."""
        for injection in self._injections:
            if injection.is_for(path):
                if injection.times is not None:
                    injection.times -= 1
                    if injection.times <= 0:
                        self._injections.remove(injection)
                return injection.fault
        return None
