"""The console's history of the last hour, and the keys that it shows."""

from collections.abc import Sequence

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import Key, KeySnapshot
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import DECRYPTIONS, ScopeLabel
from bidstream_svc.server.console_history import History
from bidstream_svc.server.console_state import describe_keys

MINUTE_MS = 60_000
NOW_S = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


def test_it_counts_minute_by_minute_over_all_workers_for_an_hour() -> None:
    metrics, clock = MetricCells(workers=2), Clock()
    history = History(metrics, clock)
    good = DECRYPTIONS[ScopeLabel.UID2, DecryptionStatus.SUCCESS]
    for minute in range(1, 100):
        metrics.rows[0][good] += minute
        metrics.rows[1][good] += 1
        metrics.count_failure(FailureReason.EXPIRED, IdentityScope.EUID)
        clock.now_ms = minute * MINUTE_MS
        history.sample()
    clock.now_ms += 1
    metrics.rows[1][good] += 5
    told = history.describe()
    minutes = told["minutes"]
    assert isinstance(minutes, list)
    assert len(minutes) == 60
    assert minutes[0]["from_ms"] == 40 * MINUTE_MS
    assert minutes[-2]["statuses"] == {"SUCCESS": 100, "EXPIRED_TOKEN": 1}
    assert minutes[-1] == {
        "from_ms": 99 * MINUTE_MS,
        "to_ms": 99 * MINUTE_MS + 1,
        "statuses": {"SUCCESS": 5},
        "reasons": {},
        "refreshes": {},
    }
    assert told["totals"] == {
        "statuses": {"SUCCESS": sum(minute["statuses"]["SUCCESS"] for minute in minutes), "EXPIRED_TOKEN": 59},
        "reasons": {"expired": 59},
        "refreshes": {},
    }


def make_snapshot(lives: Sequence[tuple[int | None, int]]) -> KeySnapshot:
    keys = {
        number: Key(key_id=number, secret=bytes(16), expires_s=expires_s, activates_s=activates_s)
        for number, (activates_s, expires_s) in enumerate(lives)
    }
    return KeySnapshot(
        keys=keys, sites={}, scope=IdentityScope.UID2, checks_domains=True, max_lifetime_ms=None, clock_skew_ms=0
    )


def test_keys_are_counted_by_whether_they_can_be_used() -> None:
    lives = [(None, NOW_S + 1), (NOW_S, NOW_S + 1), (NOW_S + 1, NOW_S + 2), (0, NOW_S), (0, 1)]
    told = describe_keys(make_snapshot(lives), NOW_S)
    assert (told["count"], told["active"], told["future"], told["expired"]) == (5, 2, 1, 2)
    assert told["lives"] == [
        [4, 0, 1],
        [3, 0, NOW_S],
        [0, None, NOW_S + 1],
        [1, NOW_S, NOW_S + 1],
        [2, NOW_S + 1, NOW_S + 2],
    ]


def test_of_many_keys_those_that_expire_next_are_shown() -> None:
    expired = [(0, NOW_S - number) for number in range(500)]
    future = [(0, NOW_S + 1 + number) for number in range(500)]
    lives = describe_keys(make_snapshot(expired + future), NOW_S)["lives"]
    assert isinstance(lives, list)
    assert [expires_s for _, _, expires_s in lives] == [NOW_S + 1 + number for number in range(100)]
