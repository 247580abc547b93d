"""What a follower does again and again while it cannot go on, and how often."""

import time
from pathlib import Path

import pytest

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.optouts.follower import NOTE
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.stream_entries import Bearings, encode_bearings
from tests.optouts.fleet import MakeHost, until
from tests.support.redis_server import PROGRAM, RedisServer

pytestmark = [pytest.mark.needs_tools(PROGRAM), pytest.mark.timeout(300)]

ELSEWHERE = Position(bytes(16), 7, "1700000000000-7")


@pytest.mark.parametrize("has_position", [True, False])
async def test_a_snapshot_that_does_not_fit_is_not_fetched_without_pause(
    make_host: MakeHost, server: RedisServer, tmp_path: Path, *, has_position: bool
) -> None:
    """One of another stream; or an incomplete one, while this host's own position is not in the stream either."""
    fetched_s: list[float] = []

    def snapshots(_store: OptOutStore) -> object:
        async def fetch() -> Position | None:
            fetched_s.append(time.monotonic())
            return ELSEWHERE if has_position else None

        return fetch

    with OptOutStore(tmp_path / "new") as store:
        store.write_notes({NOTE: encode_bearings(Bearings(position=ELSEWHERE, gap="a test"))})
    make_host("new", fetch_snapshot=snapshots)
    await until(lambda: len(fetched_s) == 5, "it is not tried again")
    # The waits are random between half of a limit and the limit, which is 1, 2, 4 and 8 s.
    assert fetched_s[4] - fetched_s[3] >= 4.0


async def test_a_store_that_takes_nothing_is_tried_less_and_less_often(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the server responds each time."""
    a, sidecar = make_host("a", is_receiver=True), make_host("sidecar")
    a.receive(1)
    await sidecar.until_it_has({1})
    await sidecar.until_level()
    failed_s: list[float] = []
    states: list[tuple[bool, str]] = []

    def fail(*_arguments: object, **_options: object) -> int:
        failed_s.append(time.monotonic())
        states.append((sidecar.follower.state.is_connected, sidecar.follower.state.error))
        raise OptOutStoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sidecar.store, "add", fail)
        a.receive(2)
        await until(lambda: len(failed_s) == 6, "it is not tried again")
    # The limits are 0.2, 0.4, 0.8, 1.6 and 3.2 s.
    assert failed_s[5] - failed_s[4] >= 1.6
    assert set(states[1:]) == {(False, "the disk is full")}  # which is logged once
    await sidecar.until_it_has({1, 2})
    await until(lambda: not sidecar.follower.state.error, f"{sidecar.follower.state}")
    await sidecar.until_level()
