"""The file descriptors of a process: the limit, and how many connections it allows.

Each connection takes one. Without a reserve, the connections of bidders would take those that the admin plane and the
key refresh need.
"""

import resource
from pathlib import Path
from typing import NamedTuple

from bidstream_svc.config import Settings, env_name
from bidstream_svc.server.refusal import MAX_REFUSALS

MAX_ADMIN_CONNECTIONS = 512
_MIN_SHARE = 4
_SHARE_DIVISOR = 8
# For the key refresh, files that are read or written, a spare one for each listener, and admin connections that are
# being closed to make room for others.
_RESERVE = 14
_NR_OPEN = Path("/proc/sys/fs/nr_open")


class DescriptorShares(NamedTuple):
    """How many connections of each kind a process has descriptors for.

    Attributes:
        data: connections of the data plane.
        admin: connections of the admin plane.
        refusals: connections of each plane that are being refused.
    """

    data: int
    admin: int
    refusals: int


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one. The usual soft limit of 1,024 is far below BIDSTREAM_MAX_CONNECTIONS."""
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The kernel accepts no limit above its own maximum, not even a hard limit that is above it already.
    limit = min(hard_limit, int(_NR_OPEN.read_text()))
    if limit > soft_limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def share_descriptors(limit: int | None = None) -> DescriptorShares:
    """Divide the descriptors that are not in use now; `limit` is the soft limit unless it is given."""
    if limit is None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = limit - sum(1 for _ in Path("/proc/self/fd").iterdir())
    share = max(_MIN_SHARE, free // _SHARE_DIVISOR)
    admin, refusals = min(MAX_ADMIN_CONNECTIONS, share), min(MAX_REFUSALS, share)
    return DescriptorShares(max(_MIN_SHARE, free - admin - 2 * refusals - _RESERVE), admin, refusals)


def descriptor_problem(settings: Settings) -> str | None:
    """Return why the hard limit does not suffice for the maximum of connections, or None.

    In the worst case one worker has all connections.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    fitting = share_descriptors(hard_limit).data
    if settings.max_connections <= fitting:
        return None
    return (
        f"{env_name('max_connections')}: {settings.max_connections} is more than the {fitting} connections for which"
        f" a process has file descriptors; raise the hard limit of {hard_limit} (ulimit -n, LimitNOFILE=)"
    )
