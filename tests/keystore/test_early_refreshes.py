"""Early refreshes: which unknown keys ask for one, when it is made, and what it says about those it did not bring."""

from itertools import pairwise
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.keystore.early_refreshes import EarlyRefreshes, UnknownKeys

INTERVAL_S = 3600.0
UNIFORM = Random(1).uniform  # noqa: S311 - no secret


def early_refreshes() -> EarlyRefreshes:
    return EarlyRefreshes(INTERVAL_S, lambda _low, high: high)  # the longest waits


def refresh(early: EarlyRefreshes, known: set[int], at_s: float, *, relay_age_s: float | None = None) -> None:
    early.begin(at_s, is_retry=False)
    asked_s = at_s if relay_age_s is None else at_s - relay_age_s
    early.succeed(known, asked_s, at_s, is_relayed=relay_age_s is not None)


def test_an_id_is_asked_for_after_growing_waits_and_never_given_up() -> None:
    unknown = UnknownKeys(INTERVAL_S)
    asked = []
    for now_s in range(20_000):
        if unknown.meet(7, now_s):
            asked.append(now_s)
            assert not unknown.settle(set(), now_s)
    waits = [after - before for before, after in pairwise(asked)]
    assert waits[:7] == [60, 120, 240, 480, 960, 1920, 3840]
    assert set(waits[7:]) == {3960}


def test_scheduled_refreshes_ask_for_known_strangers() -> None:
    unknown = UnknownKeys(INTERVAL_S)
    calls = 0
    next_s = 0.0
    for now_s in range(100_000):
        due = sum(unknown.meet(key_id, now_s) for key_id in range(20)) > 0  # all are met
        if due or now_s >= next_s:
            calls += due and now_s < next_s
            next_s = now_s + 3960  # the longest interval
            unknown.settle(set(), now_s)
    assert calls <= 8


def test_an_id_that_comes_is_forgotten() -> None:
    unknown = UnknownKeys(INTERVAL_S)
    assert unknown.meet(1, 0)
    assert unknown.meet(2, 0)
    unknown.settle({1}, 1)
    assert len(unknown) == 1
    assert not unknown.meet(2, 2)
    assert unknown.meet(1, 2)


def test_a_refresh_says_nothing_about_ids_met_after_it_was_asked_for() -> None:
    unknown = UnknownKeys(INTERVAL_S)
    unknown.meet(1, 5)
    assert unknown.settle(set(), 4)
    assert unknown.meet(1, 6)
    assert not unknown.settle(set(), 7)
    assert not unknown.meet(1, 8)


@given(ids=st.lists(st.integers(0, 2**32 - 1), max_size=100), capacity=st.integers(1, 10))
def test_memory_is_bounded_and_a_forgotten_id_is_due(ids: list[int], capacity: int) -> None:
    unknown = UnknownKeys(INTERVAL_S, capacity)
    remembered: list[int] = []
    for now_s, key_id in enumerate(ids):
        assert unknown.meet(key_id, now_s) == (key_id not in remembered)
        remembered = [*(each for each in remembered if each != key_id), key_id][-capacity:]
        assert len(unknown) == len(remembered)
        unknown.settle(set(), now_s)
        if key_id not in remembered[:-1]:
            assert not unknown.meet(key_id, now_s + 0.5)


def test_it_is_spread_unless_the_keys_are_from_a_relay() -> None:
    early = early_refreshes()
    assert early.meet(1, 100)
    assert early.at_s == 130
    refresh(early, {1}, 130, relay_age_s=0)
    assert early.at_s == inf
    assert early.meet(2, 300)
    assert early.at_s == 300
    refresh(early, {2}, 300)  # the fallback has answered
    early.meet(3, 500)
    assert early.at_s == 530


def test_it_is_dropped_if_a_scheduled_refresh_brings_the_id() -> None:
    early = early_refreshes()
    early.meet(1, 100)
    refresh(early, {1}, 110)
    assert early.at_s == inf


def test_one_a_minute_is_made_and_only_made_ones_count() -> None:
    early = early_refreshes()
    refresh(early, set(), 0)
    assert early.request(0)
    assert not early.request(1)
    early.begin(2, is_retry=True)  # a retry that comes anyway
    early.succeed(set(), 2, 3, is_relayed=False)
    assert early.request(4)
    assert early.begin(4, is_retry=False)
    early.succeed(set(), 4, 5, is_relayed=False)
    assert not early.request(63)
    assert early.request(64)


def test_what_is_met_while_a_refresh_runs_leads_to_another_one() -> None:
    early = early_refreshes()
    assert not early.begin(10, is_retry=False)
    assert early.meet(1, 11)
    early.succeed({2}, 10, 12, is_relayed=False)
    assert early.at_s == 41
    early.begin(41, is_retry=False)
    early.succeed({1}, 41, 42, is_relayed=False)
    assert early.at_s == inf


def test_a_failure_keeps_what_is_wanted() -> None:
    early = early_refreshes()
    early.meet(1, 0)
    assert early.begin(30, is_retry=False)
    early.fail(31)
    assert early.begin(32, is_retry=True)
    early.succeed({1}, 32, 33, is_relayed=False)
    assert early.at_s == inf


def test_old_keys_of_a_relay_do_not_use_up_the_minute() -> None:
    early = early_refreshes()
    refresh(early, set(), 0, relay_age_s=0)
    assert early.meet(1, 100)
    refresh(early, set(), 100, relay_age_s=40)  # within the minute of the relay
    assert early.at_s == 120
    refresh(early, set(), 120, relay_age_s=140)  # the relay's operator is down
    assert early.at_s == 128
    refresh(early, set(), 128, relay_age_s=148)
    assert early.at_s == 144
    refresh(early, {1}, 144, relay_age_s=1)
    assert early.at_s == inf


def test_old_keys_of_a_relay_do_not_use_up_the_minute_of_clients() -> None:
    """The clients of a relay that asks another relay."""
    early = early_refreshes()
    assert early.request(100)
    refresh(early, set(), 100, relay_age_s=40)  # within the minute of the other relay
    assert not early.request(119)
    assert early.request(120)
    refresh(early, set(), 120, relay_age_s=0)
    assert not early.request(179)
    assert early.request(180)


@pytest.mark.parametrize("is_relayed", [False, True])
def test_a_stranger_does_not_use_up_the_minute_of_a_real_key(is_relayed: bool) -> None:  # noqa: FBT001
    early = EarlyRefreshes(INTERVAL_S, UNIFORM)
    age_s = 0.0 if is_relayed else None
    calls = []
    for now_s in range(8_000):
        early.meet(1, now_s)
        if now_s >= early.at_s:
            calls.append(now_s)
            refresh(early, set(), now_s, relay_age_s=age_s)
    assert len(calls) < 10
    early.meet(2, 8_000)
    assert early.at_s <= 8_030
