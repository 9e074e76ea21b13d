"""What a number of sessions needs, and how the model of the HPA follows a metric."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from session_worker.contract import INBOUND_MAX_EVENTS
from tests.support.fleets import NOW, fleet, pool, worker
from whatsapp_operator.autoscaling import horizontal_pod_autoscaler
from whatsapp_operator.capacity import figures
from whatsapp_operator.capacity.__main__ import main
from whatsapp_operator.capacity.autoscaler import (
    Autoscaler,
    Behavior,
    ScalingPolicy,
    Unit,
    Utilization,
    average_value,
    resource,
)
from whatsapp_operator.capacity.sizing import (
    GIBI,
    RULES_OF_THUMB,
    Answer,
    CapacityError,
    Limit,
    Question,
    answer,
    base_memory,
    default_worker,
    memory_for,
    places_in,
    target,
    workers_for,
)
from whatsapp_operator.planner import Policy, plan
from whatsapp_operator.pods import WorkerDefaults, pod_template
from whatsapp_operator.resources import PoolSpec

MIB = figures.MEBI


def sized(**changes: Any) -> Answer:
    return answer(Question(**{"sessions": 500, **changes}))


# --- Sizing


def test_the_places_of_a_worker_are_those_that_the_planner_gives_it() -> None:
    question = Question(sessions=1, memory_per_session=400 * MIB, worker_memory=4 * GIBI)
    places, limit = places_in(4 * GIBI, question)
    assert (places, limit) == (7, Limit.MEMORY)
    empty = worker("w1", memory_used=base_memory(), memory_limit=4 * GIBI)
    report = plan(fleet(pool(replicas=1, memory_per_session=400 * MIB), empty), Policy(), NOW).pools[pool().key]
    assert report.effective_capacity == places


@pytest.mark.parametrize("places", [1, 3, 7, 15])
def test_the_memory_for_some_places_holds_them_and_hardly_more(places: int) -> None:
    question = Question(sessions=1)
    memory = memory_for(places, question)
    assert places_in(memory, question)[0] == places
    assert places_in(memory - 256 * MIB, question)[0] < places


@pytest.mark.parametrize("per_worker", [1, 2, 3, 7, 11, 15, 50])
def test_the_autoscaler_acts_before_the_places_of_its_tolerance_are_gone(per_worker: int) -> None:
    assert target(per_worker) * 1.1 <= per_worker


@pytest.mark.parametrize(("places", "workers"), [(15, 39), (13, 45), (7, 83), (3, 193)])
def test_where_memory_holds_fewer_more_workers_are_asked_for(places: int, workers: int) -> None:
    assert workers_for(500, places, 15) == workers
    assert workers * places >= 500 * 1.1


def test_workers_follow_the_target_and_not_the_places() -> None:
    found = sized(worker_memory=8 * GIBI)
    assert (found.places, found.places_by, found.target_sessions) == (15, Limit.SESSIONS, 13)
    assert (found.workers, found.packed_workers) == (39, 34)
    assert found.headroom == 39 * 15 - 500
    assert found.headroom_workers == 5
    assert found.headroom_memory == 5 * 8 * GIBI


def test_headroom_is_told_as_full_workers_that_may_fail() -> None:
    found = sized(worker_memory=8 * GIBI)
    assert found.worker_losses == 5
    assert (found.workers - 5) * found.places >= 500 > (found.workers - 6) * found.places


def test_spare_sessions_add_workers() -> None:
    assert sized(worker_memory=8 * GIBI, spare_sessions=130).workers == 39 + 10


def test_busy_sessions_are_limited_by_cpu_when_the_request_is_given() -> None:
    found = sized(worker_memory=8 * GIBI, worker_cpu=0.5, messages_per_hour=3600)
    assert found.workers_by is Limit.CPU
    assert found.workers == pytest.approx(500 * 0.08 / (0.7 * 0.5), abs=1)


def test_a_fitted_cpu_request_leaves_the_decision_to_the_sessions() -> None:
    found = sized(worker_memory=8 * GIBI, messages_per_hour=3600, node_cpu=8)
    assert found.workers_by is Limit.SESSIONS
    assert found.target_sessions * 0.08 <= 0.7 * found.worker_cpu


def test_a_few_sessions_get_the_pools_fewest_workers() -> None:
    found = sized(sessions=3, worker_memory=8 * GIBI)
    assert (found.workers, found.workers_by) == (2, Limit.MINIMUM)


def test_without_a_worker_size_the_one_that_needs_the_fewest_nodes_is_taken() -> None:
    best = sized()
    others = [sized(worker_memory=size * GIBI) for size in (2, 3, 4, 6, 8, 12)]
    assert best.nodes <= min(other.nodes for other in others)


def test_redis_holds_no_more_events_than_a_stream_keeps() -> None:
    quiet, busy, busier = (sized(messages_per_hour=rate) for rate in (0, 1000, 2000))
    assert quiet.redis == quiet.redis_after_a_day
    assert quiet.hours_until_streams_are_full is None
    assert busy.redis == busier.redis
    streams = 500 * INBOUND_MAX_EVENTS * figures.REDIS_PER_EVENT.value
    assert busy.redis - quiet.redis == pytest.approx(streams)


def test_prices_are_those_of_the_nodes() -> None:
    found = sized(node_price=50)
    assert found.price == 50 * found.nodes
    assert found.headroom_price == 50 * found.headroom_nodes
    assert sized().price is None


def test_the_default_worker_is_the_one_of_the_pod_template() -> None:
    template = pod_template(PoolSpec.model_validate({}), WorkerDefaults(image="", redis_url=""))
    requests = template["spec"]["containers"][0]["resources"]["requests"]
    assert requests == {"cpu": "500m", "memory": "2Gi"}
    assert default_worker() == (2 * GIBI, 0.5)


def test_every_figure_is_either_measured_at_a_date_or_an_assumption_that_an_argument_replaces() -> None:
    for figure in figures.ALL:
        assert figure.source
        assert figure.measured or "--" in figure.source, figure.what


def test_the_rule_of_thumb_is_fifteen_sessions_to_a_worker() -> None:
    assert [(rule.fewest, rule.most, rule.workers) for rule in RULES_OF_THUMB] == [
        (10, 20, (1, 2)),
        (50, 100, (4, 7)),
        (200, 500, (14, 34)),
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sessions": 0}, "--sessions 0: give a number of at least 1"),
        ({"messages_per_hour": -1}, "--messages-per-hour -1: give a number of at least 0"),
        ({"messages_per_hour": float("nan")}, "--messages-per-hour nan: give a number of at least 0"),
        ({"sessions_per_worker": 500}, "--sessions-per-worker 500: a pool allows at most 200"),
        ({"node_reserve": 1.0}, "--node-reserve 1: give a share from 0 to below 1"),
        ({"memory_threshold": 0.01}, "--memory-threshold 1: a pool allows 10 to 100"),
        ({"worker_memory": 256 * MIB}, "256Mi: no session of 400Mi fits below 80% of it; give at least 768Mi"),
        ({"node_memory": 512 * MIB}, "give nodes of at least 903Mi"),
        ({"worker_memory": 32 * GIBI}, "give larger nodes or a smaller --worker-memory"),
        ({"worker_cpu": 8.0}, "--node-cpu 4: less than a worker's 8 cores"),
    ],
)  # fmt: skip
def test_a_question_without_an_answer_names_the_argument_and_the_fix(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CapacityError) as caught:
        sized(**changes)
    assert sentence in str(caught.value)


# --- The model of the HPA


@pytest.mark.parametrize(
    ("metric", "replicas", "wanted"),
    [
        pytest.param(26, 2, 2, id="on target"),
        pytest.param(28, 2, 2, id="within the tolerance above"),
        pytest.param(29, 2, 3, id="above the tolerance"),
        pytest.param(24, 2, 2, id="within the tolerance below"),
        pytest.param(13, 2, 1, id="below the tolerance"),
        pytest.param(130, 11, 11, id="one replica too many within the tolerance stays"),
        pytest.param(5, 0, 1, id="from nothing"),
        pytest.param(0, 3, 0, id="nothing to do"),
    ],
)
def test_average_value_divides_the_metric_unless_within_tolerance(metric: int, replicas: int, wanted: int) -> None:
    assert average_value(metric, 13, replicas) == wanted


@pytest.mark.parametrize(
    ("use", "wanted"),
    [
        pytest.param(Utilization(total=3.2, ready=4), 4, id="on target"),
        pytest.param(Utilization(total=4.0, ready=4), 5, id="above"),
        pytest.param(Utilization(total=1.6, ready=4), 2, id="below"),
        pytest.param(Utilization(total=3.6, ready=3, starting=1), 5, id="starting pods count as idle when scaling out"),
        pytest.param(Utilization(total=2.8, ready=3, starting=1), 4, id="and may stop it"),
        pytest.param(Utilization(total=0.0, ready=0, starting=4), 4, id="no sample, no change"),
    ],
)
def test_utilization_is_the_mean_of_the_ready_pods(use: Utilization, wanted: int) -> None:
    assert resource(use, 4) == wanted


IDLE = Utilization(total=0, ready=1)


def follow(hpa: Autoscaler, metrics: Sequence[float], replicas: int) -> list[int]:
    """`spec.replicas` after each sync, every 15 s, with a fleet that has always caught up."""
    course = []
    for number, metric in enumerate(metrics):
        replicas = hpa.sync(number * 15.0, metric=metric, spec_replicas=replicas, status_replicas=replicas, use=IDLE)
        course.append(replicas)
    return course


def test_it_scales_out_at_once_by_no_more_than_its_policies_allow() -> None:
    assert follow(Autoscaler(13, 2, 100), [650] * 6, 2) == [6, 12, 24, 48, 48, 48]  # 48 are within 10 %


def test_it_scales_in_only_when_the_whole_window_agrees() -> None:
    course = follow(Autoscaler(10, 2, 100), [100] * 4 + [50] * 24, 10)
    window = 300 // 15
    assert course[: 3 + window] == [10] * (3 + window)
    assert course[3 + window] == 5


def test_it_scales_in_by_no_more_than_its_policies_allow() -> None:
    slowly = Behavior(down_window=0, down=(ScalingPolicy(Unit.PODS, 2, 60),))
    assert follow(Autoscaler(10, 2, 100, slowly), [10] * 9, 10) == [8, 8, 8, 8, 6, 6, 6, 6, 4]


def test_it_keeps_within_its_limits() -> None:
    hasty = Behavior(down_window=0, down=(ScalingPolicy(Unit.PERCENT, 100, 15),))
    assert follow(Autoscaler(10, 2, 5, hasty), [1000, 1000, 0, 0], 3) == [5, 5, 2, 2]


def test_the_behavior_is_read_from_the_pools_hpa() -> None:
    spec = PoolSpec.model_validate({"autoscaling": {"enabled": True, "maxReplicas": 40}})
    hpa = horizontal_pod_autoscaler(pool="default", pool_uid="u", namespace="ns", spec=spec)
    behavior = Behavior.of(hpa["spec"]["behavior"])
    assert follow(Autoscaler(13, 2, 40, behavior), [520, 520], 2) == [40, 40]
    assert behavior.down_window >= 300


def test_a_dip_shorter_than_the_window_changes_nothing() -> None:
    hpa = Autoscaler(10, 2, 100)
    assert set(follow(hpa, [100] * 10 + [40] * 15 + [100] * 10, 10)) == {10}
    assert hpa.direction_changes() == 0


def test_turning_round_within_the_window_is_counted() -> None:
    hasty = Behavior(down_window=0, down=(ScalingPolicy(Unit.PERCENT, 100, 15),))
    hpa = Autoscaler(10, 2, 100, hasty)
    follow(hpa, [100, 50, 100, 100], 10)
    assert len(hpa.changes) == 2
    assert hpa.direction_changes() == 0  # its window is zero: nothing is within it
    slow = Autoscaler(10, 2, 100)
    slow.changes = [(0, 10, 9), (100, 9, 12), (500, 12, 11), (600, 11, 10)]
    assert slow.direction_changes() == 1


# --- The command


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--sessions", "500", "--messages-per-hour", "20", "--worker-memory", "8Gi", "--node-memory", "32Gi"]) == 0
    )
    output = capsys.readouterr().out
    assert "39 (by sessionsPerWorker)" in output
    assert "200-500" in output
    assert "assumed" in output
    assert "set it to 47" in output  # maxReplicas


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sessions", "500", "--worker-memory", "8Gi", "--node-price", "40", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["workers"], document["nodes"], document["price"]) == (39, 39, 1560)
    assert document["headroomWorkers"] == 5
    assert [row["sessions"] for row in document["comparison"]] == [[10, 20], [50, 100], [200, 500]]
    assert any(figure["measured"] is None for figure in document["figures"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--sessions is missing: give the number of accounts"),
        (["--sessions", "5", "--picture", "day.svg"], "--picture belongs to a simulated day: add --simulate"),
        (["--simulate", "--picture", "day.png"], "--picture day.png: only SVG is drawn; give a name that ends in .svg"),
        (["--simulate", "--picture", "/nowhere/day.svg"], "there is no directory /nowhere"),
        (["--simulate", "--hours", "0"], "--hours 0: give 0.5 to 168"),
        (["--simulate", "--min-replicas", "9", "--max-replicas", "3"], "--min-replicas 9: give 1 to --max-replicas"),
        (["--simulate", "--sessions", "90000"], "divide the sessions among several pools"),
        (["--simulate", "--worker-memory", "100Mi"], "--worker-memory: no session fits; give at least 768Mi"),
    ],
)
def test_the_command_says_what_is_wrong_and_what_to_give(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--sessions", "many"], ["--memory-per-session", "big"], ["--node-cpu", "fast"]])
def test_the_command_refuses_what_is_not_an_amount(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert f"argument {arguments[0]}: '{arguments[1]}' is not" in capsys.readouterr().err
