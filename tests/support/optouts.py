"""Opt-out stores for tests, written by a process of its own, as the sidecar's are."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bidstream_svc.core.identity import IdentityScope

OptedOut = tuple[IdentityScope, str]  # programme and raw uid

_PROGRAM = """
import sys
from pathlib import Path
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.filter_growth import grow_if_needed
from bidstream_svc.optouts.optout_records import OptOut, decode_raw_id
from bidstream_svc.optouts.optout_store import OptOutStore
scopes, uids = sys.argv[2::2], sys.argv[3::2]
with OptOutStore(Path(sys.argv[1])) as store:
    store.add([OptOut(IdentityScope[scope], decode_raw_id(uid), 1) for scope, uid in zip(scopes, uids)])
    grow_if_needed(store)
"""


def opt_out(directory: Path, optouts: Iterable[OptedOut]) -> None:
    """Add opt-outs to a store and its filter, which are made if there are none; they are on disk on return."""
    arguments = [text for scope, uid in optouts for text in (scope.name, uid)]
    subprocess.run([sys.executable, "-c", _PROGRAM, str(directory), *arguments], check=True)
