"""Check of the `Host` header, which prevents DNS rebinding.

A web page can make a browser on this host send requests to a loopback port, with the page's own host name in `Host`.
So a loopback listener answers only requests that name this host or a name in BIDSTREAM_ALLOWED_HOSTS.
"""

from bidstream_svc.addresses import BoundAddress, UnixAddress, is_loopback_host

_ANY = "*"
ANY_HOST = frozenset({_ANY})


class HostCheck:
    """Checks the `Host` headers of requests to one listener.

    Args:
        address: the listener's address. Every name is allowed on a Unix socket, which browsers cannot reach, and on a
            network address, which requires a bearer token unless BIDSTREAM_ALLOW_UNAUTHENTICATED is set.
        allowed: further allowed names, in lower case; `*` allows any.
    """

    def __init__(self, address: BoundAddress, allowed: frozenset[str]) -> None:
        self._accepts_all = isinstance(address, UnixAddress) or not address.is_local or _ANY in allowed
        self._allowed = allowed

    def allows(self, host: str | None) -> bool:
        """Return whether a `Host` header (None if absent) is allowed. Its port is ignored."""
        if self._accepts_all or host is None:
            return True
        host = host.strip(" \t").lower()
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdecimal():
            name = host
        name = name.removeprefix("[").removesuffix("]").removesuffix(".")
        return is_loopback_host(name) or name in self._allowed
