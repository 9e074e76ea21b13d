"""A simulated day: the real planner between modelled users, failures and an autoscaler."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from session_worker.contract import SessionKey, WorkerKey
from whatsapp_operator.capacity.__main__ import main
from whatsapp_operator.capacity.autoscaler import SYNC_SECONDS, Behavior, ScalingPolicy, Unit
from whatsapp_operator.capacity.day import InvariantError, _Day, simulate
from whatsapp_operator.capacity.picture import draw
from whatsapp_operator.capacity.scenario import LARGE, LARGE_STEP, STEP, Result, Scenario
from whatsapp_operator.capacity.sizing import GIBI

SMALL = Scenario(sessions=120, hours=6, kills=4)


@pytest.fixture(scope="module")
def day() -> Result:
    return simulate(SMALL)


def test_everybody_gets_a_place_within_sync_period_metric_age_and_pod_start(day: Result) -> None:
    limit = SYNC_SECONDS + SMALL.metric_delay + SMALL.pod_start[1] + 2 * STEP
    assert 0 < day.worst_pending <= limit
    assert day.still_pending == 0
    assert day.p99_pending <= day.worst_pending


def test_the_fleet_follows_the_sessions_out_and_in_again(day: Result) -> None:
    first, last = day.samples[0], day.samples[-1]
    most = max(sample.replicas for sample in day.samples)
    assert first.replicas < most
    assert last.replicas < most
    assert day.peak_sessions <= most * day.places_per_worker
    assert day.replica_changes > 2


def test_the_autoscaler_does_not_turn_round_within_its_window(day: Result) -> None:
    assert day.direction_changes == 0


def test_scaling_in_moves_sessions_and_cuts_none(day: Result) -> None:
    assert day.moves
    assert day.cut == 0
    assert day.most_moves <= 3
    assert day.moves_per_session == len(day.moves) / SMALL.sessions


def test_sessions_of_dead_workers_get_another(day: Result) -> None:
    assert len(day.kills) == SMALL.kills
    assert day.orphaned > 0


def test_a_seed_gives_the_same_day_again_and_another_one_another(day: Result) -> None:
    assert simulate(SMALL) == day
    assert simulate(replace(SMALL, seed=2)).samples != day.samples


@pytest.mark.parametrize("seed", range(3))
def test_the_invariants_hold_through_a_day_of_failures(seed: int) -> None:
    hasty = Behavior(down_window=0, down=(ScalingPolicy(Unit.PERCENT, 50, 15),))
    result = simulate(
        Scenario(
            sessions=90, hours=2, seed=seed, kills=40, sessions_per_worker=4, behavior=hasty, idle=0.8,
            worker_memory=2 * GIBI, metric_delay=60, pod_start=(5, 90), connect=(1, 40), close=(0, 30),
        )
    )  # fmt: skip
    assert result.places_per_worker == 3  # memory, not the limit of sessions
    assert result.audits > 0


def test_a_burst_beyond_the_last_replica_waits_and_is_told(day: Result) -> None:
    result = simulate(replace(SMALL, max_replicas=4, leave=0.0, idle=0.0))
    assert result.still_pending == SMALL.sessions - 4 * 15
    assert max(sample.replicas for sample in result.samples) == 4
    assert result.worst_pending > day.worst_pending


def test_spare_places_shorten_the_wait(day: Result) -> None:
    spared = simulate(replace(SMALL, spare_sessions=40))
    assert spared.mean_pending < day.mean_pending
    assert spared.waited < day.waited


def test_a_late_metric_lengthens_the_wait(day: Result) -> None:
    assert simulate(replace(SMALL, metric_delay=300)).worst_pending > day.worst_pending


def test_large_fleets_are_planned_in_larger_steps() -> None:
    assert Scenario(sessions=LARGE).step == STEP
    assert Scenario(sessions=LARGE + 1).step == LARGE_STEP


def test_a_large_fleet_plays_a_short_day() -> None:
    result = simulate(Scenario(sessions=5_000, hours=0.5, kills=2))
    assert result.peak_sessions > 3_000
    assert result.peak_workers * result.places_per_worker >= result.peak_sessions


# --- What raises


def test_a_second_browser_for_a_session_raises() -> None:
    world = _Day(SMALL)
    first, second = world._create_worker(), world._create_worker()
    for key in (first, second):
        world._become_ready(key)
    session = SessionKey("day", "s1")
    world._open(session, first, 1)
    with pytest.raises(InvariantError, match="while day/w00000 still has its browser open"):
        world._open(session, second, 2)


def test_more_sessions_on_a_worker_than_places_raise() -> None:
    world = _Day(SMALL)
    world._places = 10  # fewer than the planner believes
    with pytest.raises(InvariantError, match="sessions on record for 10 places"):
        world.run(lambda _: None)


def test_a_plan_that_misses_a_session_raises() -> None:
    world = _Day(SMALL)
    world._apply(SessionKey("day", "s1"))
    world._become_ready(world._create_worker())
    world._unsettled.clear()
    with pytest.raises(InvariantError, match="a plan of the whole fleet differs"):
        world._audit()


def test_a_record_that_the_indices_have_lost_raises() -> None:
    world = _Day(SMALL)
    world._apply(SessionKey("day", "s1"))
    world._become_ready(world._create_worker())
    world._operate()
    world._held[WorkerKey("day", "w00000")].clear()
    with pytest.raises(InvariantError, match="whose list says otherwise"):
        world._audit()


# --- What is shown


def test_the_picture_is_well_formed_and_shows_every_death_of_a_worker(day: Result) -> None:
    root = ET.fromstring(draw(day))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("▼") == len(day.kills)
    assert {"places", "sessions", "spec.replicas"} <= set(texts)


def test_a_picture_of_a_day_without_moves_or_deaths_can_be_drawn() -> None:
    quiet = simulate(Scenario(sessions=1, hours=1, kills=0, leave=0, idle=0))
    assert quiet.moves == []
    ET.fromstring(draw(quiet))


def test_the_command_plays_a_day_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "day.svg"
    arguments = ["--simulate", "--sessions", "40", "--hours", "2", "--seed", "3", "--picture", str(picture)]
    assert main(arguments) == 0
    assert "40 accounts" in capsys.readouterr().out
    ET.parse(picture)
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["scenario"]["sessions"] == 40
    assert document["stillPending"] == 0
    assert document["samples"][0]["places"] > 0
