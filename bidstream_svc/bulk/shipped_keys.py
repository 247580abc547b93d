"""Keys on their way to the workers of a cluster."""

import zlib
from collections.abc import Iterable
from dataclasses import fields
from pickle import dumps, loads
from typing import Any

from bidstream_svc.core.keys import KeySnapshot


class ShippedKeys:
    """Keys that can be pickled, which those in use cannot. Whoever can read the pickle has the secrets.

    Its repr shows counts only, because engines show arguments in plans, dashboards and logs. For the same reason, the
    pickle is compressed: an excerpt of it is not legible.

    Args:
        snapshots: one of each programme.

    Attributes:
        snapshots: as given.
    """

    def __init__(self, snapshots: Iterable[KeySnapshot]) -> None:
        self.snapshots = tuple(snapshots)

    def __repr__(self) -> str:
        """Show counts only."""
        return f"{type(self).__name__}({', '.join(map(repr, self.snapshots))})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what the snapshots were made of, without ciphers and other caches."""
        made_of = [{each.name: getattr(keys, each.name) for each in _FIELDS} for keys in self.snapshots]
        return _unpack, (zlib.compress(dumps(made_of), 1),)


_FIELDS = [each for each in fields(KeySnapshot) if each.init]


def _unpack(packed: bytes) -> ShippedKeys:
    made_of: list[dict[str, Any]] = loads(zlib.decompress(packed))  # noqa: S301 - the pickle around it is trusted, too
    return ShippedKeys(KeySnapshot(**each) for each in made_of)
