"""The schedule of refreshes keeps a fleet out of step, and does as the operator asks."""

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.keystore.refresh_schedule import (
    MAX_SPREAD_S,
    draw_back_off_s,
    draw_interval_s,
    draw_spread_s,
)

UNIFORM = Random(1).uniform  # noqa: S311 - no secret


@given(failures=st.integers(1, 10_000))
def test_back_off_grows_to_a_minute_and_no_further(failures: int) -> None:
    assert 0 <= draw_back_off_s(failures, UNIFORM) <= min(60, 2 ** min(failures - 1, 10))


def test_back_off_uses_all_of_its_range() -> None:
    for failures, limit_s in [(1, 1), (2, 2), (4, 8), (7, 60), (50, 60)]:
        waits_s = [draw_back_off_s(failures, UNIFORM) for _ in range(500)]
        assert min(waits_s) < limit_s / 4
        assert limit_s * 3 / 4 < max(waits_s) <= limit_s


def test_what_the_operator_asks_for_comes_before_the_random_wait() -> None:
    waits_s = [draw_back_off_s(5, UNIFORM, retry_after_s=100) for _ in range(500)]
    assert 100 <= min(waits_s) < 104
    assert 112 < max(waits_s) <= 116


def test_a_wrong_header_does_not_stop_refreshes() -> None:
    assert 300 <= draw_back_off_s(1, UNIFORM, retry_after_s=math.inf, longest_s=300) <= 301


def test_the_interval_is_spread_by_a_tenth() -> None:
    waits_s = [draw_interval_s(1000, UNIFORM) for _ in range(500)]
    assert 900 <= min(waits_s) < 920
    assert 1080 < max(waits_s) <= 1100


def test_early_refreshes_are_spread_over_half_a_minute_or_less() -> None:
    for interval_s, longest_s in [(3600, MAX_SPREAD_S), (100_000, MAX_SPREAD_S), (1200, 10), (60, 0.5)]:
        waits_s = [draw_spread_s(interval_s, UNIFORM) for _ in range(500)]
        assert 0 <= min(waits_s) < longest_s / 20
        assert longest_s * 19 / 20 < max(waits_s) <= longest_s
