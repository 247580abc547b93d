"""Which names a `Host` header may carry, against DNS rebinding.

A web page can make a browser on this host send requests to a loopback port under the page's own name. So where only
programs on this host can connect, a request must be addressed to this host, or to a name that the settings allow.
"""

from bidstream_svc.addresses import BoundAddress, UnixAddress, is_loopback_host

_ANY = "*"


class HostCheck:
    """Judges the `Host` headers of one listener's requests.

    Args:
        address: the listener's; no browser reaches a Unix socket, and beyond loopback a bearer token guards.
        allowed: further names, in lower case; `*` for any.
    """

    def __init__(self, address: BoundAddress, allowed: frozenset[str]) -> None:
        self._accepts_all = isinstance(address, UnixAddress) or not address.is_local or _ANY in allowed
        self._allowed = allowed

    def allows(self, host: str | None) -> bool:
        """Whether a request with this header (None if absent) is meant for us; its port is ignored."""
        if self._accepts_all or host is None:
            return True
        name, colon, port = host.strip().lower().rpartition(":")
        if not colon or not port.isdecimal():
            name = host.strip().lower()
        name = name.removeprefix("[").removesuffix("]").removesuffix(".")
        return is_loopback_host(name) or name in self._allowed
