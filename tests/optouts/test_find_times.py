"""When an opt-out arrived, for explanations."""

from pathlib import Path

import pybase64

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_reader import OptOutReader
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore

UID2, EUID = IdentityScope.UID2, IdentityScope.EUID


def uid(raw_id: bytes) -> str:
    return pybase64.b64encode(raw_id).decode()


def test_times_of_opt_outs(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    ids = [bytes([number]) * length for number in range(5) for length in (32, 33)]
    with OptOutStore(directory) as store:
        store.add([OptOut(UID2, raw_id, 1000 + raw_id[0], raw_id[0] or None) for raw_id in ids])
    reader = OptOutReader(directory)
    for raw_id in ids:
        assert reader.find_times(UID2, uid(raw_id)) == (1000 + raw_id[0], raw_id[0] or None)
        assert reader.check(UID2, uid(raw_id), 0) == "opted_out"
        assert reader.find_times(EUID, uid(raw_id)) is None
    for unknown in (uid(b"\xff" * 32), uid(b"\1" * 31 + b"\2"), uid(b"\0" * 7), "", "é"):
        assert reader.find_times(UID2, unknown) is None
    reader.close()
    assert reader.find_times(UID2, uid(ids[0])) is None


def test_a_store_that_is_missing(tmp_path: Path) -> None:
    reader = OptOutReader(tmp_path / "missing", is_required=False)
    assert reader.find_times(UID2, uid(b"\1" * 32)) is None
