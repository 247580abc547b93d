"""The simulated fleet: small, seeded runs do as the service's own rules say."""

import math
from dataclasses import replace

import pytest
import simpy

from benchmarks.figures import kept_results
from benchmarks.fleet.capacity import SharedCapacity
from benchmarks.fleet.optouts_model import Feed, simulate_feed
from benchmarks.fleet.parameters import COMMIT_S, SNAPSHOT_WRITE_IDS_PER_S, all_figures
from benchmarks.fleet.real_hosts import Material
from benchmarks.fleet.scale import inputs_table, scale_table
from benchmarks.fleet.scenarios import EVENT_S, Run, Scenario, simulate
from benchmarks.fleet.series import Level, PerSecond
from benchmarks.fleet.snapshots_model import Rush, simulate_rush
from benchmarks.fleet.sources import OperatorPlan, Outage
from benchmarks.fleet.summaries import describe_run
from bidstream_svc import DecryptionStatus, decrypt, parse_key_response
from bidstream_svc.optouts.follower import READ_GAP_S
from bidstream_svc.optouts.snapshot_file import _MAX_AGE_S
from bidstream_svc.server.optout_plane import _MAX_SNAPSHOTS

ROTATION = OperatorPlan(rotations_s=(EVENT_S,))
IN_PEACE = Scenario(name="test", hosts=200)


def peak_without_keys(run: Run) -> int:
    return max(value for _, value in run.hosts.without_keys.changes)


def test_each_host_asks_once_an_hour() -> None:
    run = simulate(IN_PEACE)
    assert 0.95 * 600 < run.operator.requests.total < 1.05 * 600
    assert run.operator.requests.peak < 5
    assert run.level_after_s == 0
    assert run.not_initialized == run.not_authorized == run.unanswered == 0


def test_a_seed_gives_the_same_run() -> None:
    scenario = replace(IN_PEACE, operator=ROTATION)
    assert describe_run(simulate(scenario)) == describe_run(simulate(scenario))
    assert describe_run(simulate(scenario)) != describe_run(simulate(replace(scenario, seed=1)))


@pytest.mark.parametrize(
    "plan",
    [
        ROTATION,
        replace(ROTATION, limit_per_s=5, retry_after_s=10),
        replace(ROTATION, think_s=8),
        OperatorPlan(outage=Outage(EVENT_S, 2 * EVENT_S)),
    ],
    ids=["rotation", "429", "slow", "down"],
)
@pytest.mark.parametrize("relays", [0, 2])
def test_who_has_keys_keeps_them(plan: OperatorPlan, relays: int) -> None:
    run = simulate(replace(IN_PEACE, operator=plan, relays=relays))
    assert peak_without_keys(run) == 0
    assert run.hosts.not_level.value == 0


def test_a_rotation_is_noticed_by_all_and_costs_a_request_each() -> None:
    run = simulate(replace(IN_PEACE, operator=ROTATION))
    assert 200 <= run.operator.requests.between(EVENT_S, EVENT_S + 60) <= 230
    assert 0 < run.level_after_s < 60
    assert run.not_authorized > 0


def test_relays_are_the_only_clients_of_the_operator() -> None:
    run = simulate(replace(IN_PEACE, operator=ROTATION, relays=2))
    assert run.operator.requests.peak <= 2
    assert run.operator.requests.total < 20
    assert sum(relay.requests.total for relay in run.relays) > 600
    assert run.level_after_s < 120


def test_a_429_is_respected() -> None:
    limited = OperatorPlan(limit_per_s=5, retry_after_s=10)
    restart = replace(IN_PEACE, restart_s=EVENT_S, duration_s=EVENT_S + 600)
    run = simulate(replace(restart, operator=limited))
    begin_s = EVENT_S + run.scenario.costs.start_cpu_s
    assert run.operator.refused.total > 150
    assert run.operator.requests.between(begin_s + 3, begin_s + 9) == 0
    assert run.hosts.not_level.value == 0
    without = simulate(replace(restart, operator=replace(limited, retry_after_s=0)))
    assert without.operator.requests.between(begin_s + 3, begin_s + 9) > 20


def test_a_token_of_which_nobody_has_the_key_soon_costs_no_more_than_scheduled_requests() -> None:
    run = simulate(replace(IN_PEACE, hosts=20, stranger_s=0.1, duration_s=4 * 3600.0))
    assert 20 * 6 < run.operator.requests.between(0, 7200) < 20 * 12
    assert run.operator.requests.between(2 * 3600, 4 * 3600) <= 20 * 3


def test_a_fleet_without_relays_does_not_call_within_a_second() -> None:
    run = simulate(replace(IN_PEACE, operator=ROTATION))
    assert run.operator.requests.peak < 30


def test_a_key_cache_keeps_tokens_over_a_restart() -> None:
    restart = replace(IN_PEACE, restart_s=EVENT_S, duration_s=2 * EVENT_S)
    without, cached = simulate(restart), simulate(replace(restart, has_cache=True))
    assert without.not_initialized > 0
    assert cached.not_initialized == 0
    assert cached.unanswered == pytest.approx(without.unanswered, rel=0.01)
    assert without.unanswered == pytest.approx(200 * restart.costs.start_cpu_s * restart.tokens_per_s)


def test_a_rolling_restart_takes_so_many_at_once() -> None:
    run = simulate(replace(IN_PEACE, restart_s=EVENT_S, restart_at_once=4, duration_s=2 * EVENT_S))
    assert max(value for _, value in run.hosts.not_level.changes) == 4
    assert run.hosts.not_level.value == 0


def test_an_operator_that_sends_slowly_answers_all_the_same() -> None:
    scenario = replace(IN_PEACE, operator=replace(ROTATION, bytes_per_s=2e7))
    run = simulate(scenario)
    assert run.operator.abandoned.total == 0
    assert run.level_after_s < 200
    assert run.hosts.not_level.value == 0
    assert run.operator.sent_bytes.peak <= 2e7 * 1.001


def test_jobs_share_a_capacity_evenly() -> None:
    env = simpy.Environment()
    worked = PerSecond()
    shared = SharedCapacity(env, 10.0, 8.0, worked.spread)
    ended: dict[str, float] = {}

    def use(name: str, begin_s: float, units: float, patience_s: float = math.inf) -> None:
        def run() -> "simpy.events.ProcessGenerator":
            yield env.timeout(begin_s)
            done = yield shared.use(units, patience_s)
            ended[name] = env.now if done else -env.now

        env.process(run())

    use("alone, then shared", 0, 13)  # 8 in the first second, then 5 a second
    use("shared", 1, 10)  # 5 a second, then 8
    use("gives up", 10, 100, patience_s=2)
    env.run()
    assert ended == {"alone, then shared": pytest.approx(2), "shared": pytest.approx(2.625), "gives up": -12}
    assert worked.total == pytest.approx(13 + 10 + 16)
    assert worked.values(3) == pytest.approx([8, 10, 5])


def test_amounts_and_levels_are_those_of_their_times() -> None:
    amounts = PerSecond()
    amounts.spread(0.5, 2.5, 4)
    assert amounts.values(3) == pytest.approx([1, 2, 1])
    level = Level()
    level.change(1, 2)
    level.change(3, -2)
    assert level.at([0.5, 1.0, 2.9, 3.0]) == [0, 2, 2, 0]
    assert level.last_above_s() == 3
    assert level.weigh(lambda time_s: time_s**2 / 2, 10) == 2 * (9 - 1) / 2


def test_opt_outs_arrive_everywhere_in_order_of_the_load() -> None:
    before = Feed(hosts=2_000, rate=200, duration_s=20, append_gap_s=0.0, read_gap_s=0.0, check_every_s=1.0)
    few, many = (simulate_feed(replace(before, hosts=hosts)) for hosts in (10, 2_000))
    assert few.optouts == pytest.approx(200 * 20, rel=0.02)
    assert few.delay_s(0.5) > COMMIT_S.value
    assert few.delay_s(1) < 0.1
    assert few.busy_s < many.busy_s <= 21
    assert many.delay_s(0.99) > few.delay_s(0.99)
    batched = simulate_feed(Feed(hosts=2_000, rate=200, duration_s=20))
    assert batched.busy_s < many.busy_s
    assert READ_GAP_S < batched.delay_s(1) < 1


def test_one_snapshot_is_for_all_who_wait() -> None:
    rush = Rush(hosts=30, ids=100e6, counts_waiting=False, at_once=8)
    assert rush.ids / SNAPSHOT_WRITE_IDS_PER_S.value > _MAX_AGE_S
    run = simulate_rush(rush)
    assert run.written == [1, 1]
    assert run.without.value == 0
    assert max(simulate_rush(replace(rush, age_from_end=False)).written) > 10
    limited = simulate_rush(Rush(hosts=100, ids=100e6))
    assert sum(seen.refused.total for seen in limited.receivers) >= 100 - 2 * _MAX_SNAPSHOTS
    assert limited.without.value == 0


def test_the_real_fleet_is_asked_for_a_token_of_the_newest_keys() -> None:
    material = Material(10, 100)
    before, after = (parse_key_response(response) for response in material.responses)
    assert len(after.keys) == len(before.keys) + 1
    old, new = (request.partition(b'"token": "')[2].partition(b'"')[0].decode() for request in material.requests)
    now_ms = next(iter(before.keys.values())).expires_s * 1000 - 86_400_000 * 29
    assert [decrypt(old, None, keys, now_ms)[0] for keys in (before, after)] == [DecryptionStatus.SUCCESS] * 2
    assert decrypt(new, None, before, now_ms)[0] is DecryptionStatus.NOT_AUTHORIZED_FOR_KEY
    assert decrypt(new, None, after, now_ms)[0] is DecryptionStatus.SUCCESS


def test_every_figure_has_a_unit_and_a_source() -> None:
    assert len(all_figures()) > 20
    assert all(figure.unit and figure.source for figure in all_figures().values())


def test_what_a_fleet_needs_follows_from_the_figures_beside_it() -> None:
    results = kept_results()
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in scale_table(results).splitlines()[2:]}
    largest = {name: float(cells[-1].replace(",", "")) for name, cells in rows.items()}
    figures = {name: each["value"] for name, each in results["fleet"]["keys"]["parameters"].items()}
    assert largest["hosts"] == 2_000
    assert largest["connections of one relay, if no other runs"] == 2_000
    assert largest["memory of each for the stream, MB"] == round(10 * 7 * 86_400 * 65 / 1e6)
    snapshots_gb = 2_000 * 10e6 * figures["SNAPSHOT_ID_BYTES"] / 1e9
    assert largest["GB of snapshots of 10 million opt-outs, all hosts"] == snapshots_gb
    per_host = 10 * (figures["ENTRY_BYTES"] + figures["OPTOUT_BYTES"]) + figures["CHECK_BYTES"]
    assert largest["MB/s from Redis, at 10 opt-outs/s"] == round(2_000 * per_host / 1e6, 2)
    to_relays = 2_000 * figures["RESPONSE_BYTES"] / 10 / (largest["relays"] - 1)
    assert largest["MB/s of a relay for new keys, if one is down"] == pytest.approx(to_relays / 1e6, rel=0.01)
    processor_us = next(line for line in inputs_table(results).splitlines() if "processor time" in line).split("|")[2]
    assert largest["cores of all sidecars"] == math.ceil(10e6 * float(processor_us) / 1e6 / 0.5)
