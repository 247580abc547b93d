"""`python -m bidstream_svc.optouts.snapshot_process DIRECTORY` writes a snapshot of a store to its standard output.

Its last line on standard error is the SHA-256 of all that it has written, in hexadecimal, or what is wrong.

A process of its own, because LMDB releases the interpreter's lock for each of the millions of records, and each time
a thread of a busy receiver would have to wait for it. Five times as long, and the webhook would wait as well. Nor does
a copy by LMDB do: copying with compaction crashes with tables such as ours, and without, a store takes up to three
times the room of its ids.
"""

import hashlib
import sys
from pathlib import Path

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.optouts.snapshot import write_snapshot

_BUFFER_BYTES = 4 * 1024 * 1024


def main() -> None:
    """Write the snapshot; on failure, exit with a line on standard error."""
    digest = hashlib.sha256()
    try:
        with open(sys.stdout.fileno(), "wb", buffering=_BUFFER_BYTES, closefd=False) as file:
            for part in write_snapshot(Path(sys.argv[1])):
                digest.update(part)
                file.write(part)
        sys.stderr.write(f"{digest.hexdigest()}\n")
    except OptOutStoreError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(error.strerror or type(error).__name__)


if __name__ == "__main__":
    main()
