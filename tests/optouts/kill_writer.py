"""`python -m tests.optouts.kill_writer DIRECTORY FIRST`: adds groups of ids to a store until it is killed.

It prints the number of each group when the group is on disk. FIRST is the number of its first group.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore

IDS_OF_A_GROUP = 50
EPOCH = b"e" * 16


def group(number: int) -> list[OptOut]:
    """The opt-outs of a group, which its number decides."""
    return [_optout(place) for place in range(number * IDS_OF_A_GROUP, (number + 1) * IDS_OF_A_GROUP)]


def _optout(place: int) -> OptOut:
    digest = hashlib.sha512(b"%d" % place).digest()
    return OptOut(IdentityScope(place % 2), digest[: 32 + place // 2 % 2], 1_700_000_000 + place)


def add_groups(directory: Path, first: int) -> Iterator[int]:
    """Add groups for ever, and yield the number of each when it is on disk; a group that fails is tried again."""
    with OptOutStore(directory) as store:
        number = first
        while True:
            try:
                store.add(group(number), position=Position(EPOCH, number, f"{number}-0"), is_owed=True)
            except OptOutStoreError:
                continue
            yield number
            number += 1


if __name__ == "__main__":
    for done in add_groups(Path(sys.argv[1]), int(sys.argv[2])):
        sys.stdout.write(f"{done}\n")
        sys.stdout.flush()
