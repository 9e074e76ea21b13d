"""`python -m whatsapp_operator.capacity`: sizes a fleet, or simulates a day of it.

Owns arguments and output. Must not calculate.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whatsapp_operator.capacity import figures
from whatsapp_operator.capacity.day import simulate
from whatsapp_operator.capacity.picture import draw
from whatsapp_operator.capacity.scenario import Result, Scenario
from whatsapp_operator.capacity.sizing import (
    GIBI,
    MOST_WORKERS,
    RULES_OF_THUMB,
    Answer,
    CapacityError,
    Question,
    alternatives,
    answer,
    default_worker,
    parse_cpu,
)
from whatsapp_operator.resources import parse_quantity

_SIMULATED_SESSIONS = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit status: 0, or 2 when the question has no answer."""
    options = _parser().parse_args(arguments)
    try:
        if options.simulate:
            _simulate(options)
        else:
            _size(options)
    except CapacityError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m whatsapp_operator.capacity",
        description="What a number of sessions needs: pods, CPU, memory, Redis, nodes, and the cost of headroom. "
        "With --simulate: a day of arrivals, failures and idle times through the real planner.",
    )
    defaults = Question(sessions=1)
    add = parser.add_argument
    add("--sessions", type=_whole, help=f"accounts (with --simulate: {_SIMULATED_SESSIONS} when absent)")
    add("--json", action="store_true", help="print JSON")
    _add_both(parser, defaults)
    _add_sizing(parser.add_argument_group("sizing"), defaults)
    _add_simulation(parser.add_argument_group("simulation"))
    return parser


def _add_both(parser: argparse.ArgumentParser, defaults: Question) -> None:
    add = parser.add_argument
    add("--memory-per-session", type=_memory, default=defaults.memory_per_session, metavar="QUANTITY",
        help="memory of one more session (400Mi, an assumption: measure your accounts)")  # fmt: skip
    add("--sessions-per-worker", type=_whole, default=defaults.sessions_per_worker, metavar="N",
        help=f"the pool's sessionsPerWorker ({defaults.sessions_per_worker})")  # fmt: skip
    add("--worker-memory", type=_memory, metavar="QUANTITY",
        help="memory of a worker pod (absent: the size that needs the fewest nodes)")  # fmt: skip
    add("--spare-sessions", type=_whole, default=defaults.spare_sessions, metavar="N",
        help="the pool's spareSessions (0)")  # fmt: skip
    add("--min-replicas", type=_whole, default=defaults.min_replicas, metavar="N",
        help=f"the pool's minReplicas ({defaults.min_replicas})")  # fmt: skip


def _add_sizing(group: argparse._ArgumentGroup, defaults: Question) -> None:
    add = group.add_argument
    add("--messages-per-hour", type=_number, default=defaults.messages_per_hour, metavar="M",
        help="messages sent and received by each session (20)")  # fmt: skip
    add("--cpu-per-session", type=_cpu, default=defaults.cpu_per_session, metavar="CPU",
        help="CPU of a session at rest (30m, an assumption)")  # fmt: skip
    add("--cpu-per-message", type=_number, default=defaults.cpu_per_message, metavar="SECONDS",
        help="core seconds for one message (0.05, an assumption)")  # fmt: skip
    add("--events-per-message", type=_number, default=defaults.events_per_message, metavar="N",
        help="events kept in Redis for one message (2, an assumption)")  # fmt: skip
    add("--memory-threshold", type=_number, default=defaults.memory_threshold * 100, metavar="PERCENT",
        help="the pool's memoryThreshold (80)")  # fmt: skip
    add("--worker-cpu", type=_cpu, metavar="CPU", help="CPU request of a worker pod (absent: what its sessions need)")
    add("--node-memory", type=_memory, default=defaults.node_memory, metavar="QUANTITY", help="memory of a node (16Gi)")
    add("--node-cpu", type=_cpu, default=defaults.node_cpu, metavar="CPU", help="CPU of a node (4)")
    add("--node-reserve", type=_number, default=defaults.node_reserve, metavar="SHARE",
        help="share of a node that the system keeps (0.15, an assumption)")  # fmt: skip
    add("--node-price", type=_number, metavar="MONEY", help="price of one node for a month, in any currency")


def _add_simulation(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    defaults = Scenario()
    add("--simulate", action="store_true", help="play a day instead of sizing")
    add("--hours", type=_number, default=defaults.hours, help="length of the day, its shape stretched to it (24)")
    add("--seed", type=int, default=defaults.seed, help="of everything random (1)")
    add("--kills", type=_whole, default=defaults.kills, metavar="N", help="workers that die in the day (12)")
    add("--max-replicas", type=_whole, metavar="N", help="the pool's maxReplicas (absent: more than is needed)")
    add("--metric-delay", type=_number, default=defaults.metric_delay, metavar="SECONDS",
        help="age of the session metric when the HPA reads it (30: a scrape interval; builtin: 0)")  # fmt: skip
    add("--picture", type=Path, metavar="FILE.svg", help="draw the day")


# --- Sizing ---------------------------------------------------------------------------------------------------------


def _size(options: argparse.Namespace) -> None:
    for name, given in (("--picture", options.picture), ("--max-replicas", options.max_replicas)):
        if given is not None:
            raise CapacityError(f"{name} belongs to a simulated day: add --simulate, or leave it out")
    if options.sessions is None:
        raise CapacityError("--sessions is missing: give the number of accounts, such as --sessions 500")
    question = Question(
        sessions=options.sessions,
        messages_per_hour=options.messages_per_hour,
        memory_per_session=options.memory_per_session,
        cpu_per_session=options.cpu_per_session,
        cpu_per_message=options.cpu_per_message,
        events_per_message=options.events_per_message,
        sessions_per_worker=options.sessions_per_worker,
        memory_threshold=options.memory_threshold / 100,
        min_replicas=options.min_replicas,
        spare_sessions=options.spare_sessions,
        worker_memory=options.worker_memory,
        worker_cpu=options.worker_cpu,
        node_memory=options.node_memory,
        node_cpu=options.node_cpu,
        node_reserve=options.node_reserve,
        node_price=options.node_price,
    )
    found = answer(question)
    others = alternatives(question, sorted({default_worker()[0], 4 * GIBI, 8 * GIBI} - {found.worker_memory}))
    comparison = _comparison(question)
    if options.json:
        _print_json(
            {
                **_answer_json(found),
                "otherWorkerSizes": [_answer_json(other) for other in others],
                "comparison": comparison,
                "figures": [_camel(asdict(figure)) for figure in figures.ALL],
                "warnings": _warnings(found),
            }
        )
        return
    _print_answer(found)
    _print_others(others)
    _print_comparison(comparison)
    _print_figures()
    for warning in _warnings(found):
        sys.stdout.write(f"\nNote: {warning}\n")


def _print_answer(found: Answer) -> None:
    question = found.question
    price, headroom_price = found.price, found.headroom_price
    full = found.hours_until_streams_are_full
    rows = [
        ("worker pod", f"{_size_text(found.worker_memory)}, {found.worker_cpu:.1f} CPU requested"),
        ("places in a worker", f"{found.places} (by {found.places_by}); the HPA aims at {found.target_sessions:.3g}"),
        ("worker pods", f"{found.workers} (by {found.workers_by})"),
        ("CPU", f"{found.cpu_requested:.1f} cores requested, {found.cpu_used:.1f} expected in use"),
        ("memory", f"{_size_text(found.memory_requested)} requested, {_size_text(found.memory_used)} expected in use"),
        ("Redis memory", f"{_size_text(found.redis_after_a_day)} after a day, {_size_text(found.redis)} at most"
         + (f" (streams full after {full:.0f} h)" if full else "")),
        ("nodes", f"{found.nodes} of {_size_text(question.node_memory)} and {question.node_cpu:g} CPU, "
         f"{found.workers_per_node} workers on each" + ("" if price is None else f": {price:,.2f} a month")),
        ("headroom", f"{found.headroom} places, enough for the sessions of {found.worker_losses} full workers"),
        ("its cost", f"{found.headroom_workers} pods, {_size_text(found.headroom_memory)}, "
         f"{found.headroom_cpu:.1f} CPU, {found.headroom_nodes} nodes"
         + ("" if headroom_price is None else f": {headroom_price:,.2f} a month")),
    ]  # fmt: skip
    per_session = _size_text(question.memory_per_session)
    sys.stdout.write(
        f"{question.sessions:,} sessions of {per_session} with {question.messages_per_hour:g} messages an hour each\n\n"
    )
    for name, text in rows:
        sys.stdout.write(f"  {name:<20}{text}\n")


def _print_others(others: Sequence[Answer]) -> None:
    if not others:
        return
    sys.stdout.write("\nWith workers of another size\n")
    _print_table(
        ("worker", "places", "pods", "memory", "nodes"),
        [
            (_size_text(o.worker_memory), str(o.places), str(o.workers), _size_text(o.memory_requested), str(o.nodes))
            for o in others
        ],
    )


def _comparison(question: Question) -> list[dict[str, Any]]:
    """The rows of the first sizing table, and what is said for the same sessions here."""
    rows = []
    for rule in RULES_OF_THUMB:
        ours = [answer(_for_sessions(question, count)) for count in (rule.fewest, rule.most)]
        rows.append(
            {
                "sessions": [rule.fewest, rule.most],
                "ruleOfThumb": {"workers": list(rule.workers), "sessionMemoryBytes": list(rule.memory)},
                "here": {
                    "workers": [item.workers for item in ours],
                    "memoryRequestedBytes": [item.memory_requested for item in ours],
                    "nodes": [item.nodes for item in ours],
                },
            }
        )
    return rows


def _for_sessions(question: Question, count: int) -> Question:
    return Question(**{**asdict(question), "sessions": count})


def _print_comparison(rows: Sequence[dict[str, Any]]) -> None:
    sys.stdout.write("\nBeside the rule of thumb: 15 sessions in a worker of 2Gi, 50 to 100 MB for a session\n")
    _print_table(
        ("sessions", "rule: pods", "for sessions", "here: pods", "requested", "nodes"),
        [
            (
                _span(row["sessions"]),
                _span(row["ruleOfThumb"]["workers"]),
                _span([_size_text(size) for size in row["ruleOfThumb"]["sessionMemoryBytes"]]),
                _span(row["here"]["workers"]),
                _span([_size_text(size) for size in row["here"]["memoryRequestedBytes"]]),
                _span(row["here"]["nodes"]),
            )
            for row in rows
        ],
    )


def _print_figures() -> None:
    sys.stdout.write("\nFrom\n")
    for figure in figures.ALL:
        value = _size_text(int(figure.value)) if figure.unit == "bytes" else f"{figure.value:g} {figure.unit}"
        origin = f"measured {figure.measured}" if figure.measured else "assumed"
        sys.stdout.write(f"  {origin:<17}{figure.what}: {value}\n")


def _warnings(found: Answer) -> list[str]:
    """What a person must do or know beside the numbers."""
    notes = []
    if found.workers > MOST_WORKERS:
        notes.append(f"{found.workers} workers are more than the {MOST_WORKERS} of one pool: divide the sessions.")
    elif found.workers > 10:
        notes.append(f"the pool's autoscaling.maxReplicas is 10 by default: set it to {-(-found.workers * 6 // 5)}.")
    memory, cpu = default_worker()
    if (found.worker_memory, found.worker_cpu) != (memory, cpu):
        notes.append("set this worker size in the pool's template: container worker, resources.")
    if found.places_by == "memory":
        notes.append(
            f"memory holds {found.places} of {found.question.sessions_per_worker} sessionsPerWorker: the planner goes "
            "by what it measures, and the session metric follows."
        )
    notes.append("the memory of real accounts is assumed: measure some of yours, and give --memory-per-session.")
    return notes


def _answer_json(found: Answer) -> dict[str, Any]:
    derived = {
        name: getattr(found, name)
        for name in (
            "memory_requested", "cpu_requested", "headroom", "headroom_workers", "headroom_memory", "headroom_cpu",
            "headroom_nodes", "worker_losses", "price", "headroom_price",
        )
    }  # fmt: skip
    return _camel({**asdict(found), **derived})


# --- A day ----------------------------------------------------------------------------------------------------------


def _simulate(options: argparse.Namespace) -> None:
    picture: Path | None = options.picture
    if picture is not None and picture.suffix != ".svg":
        raise CapacityError(f"--picture {picture}: only SVG is drawn; give a name that ends in .svg")
    if picture is not None and not picture.parent.is_dir():
        raise CapacityError(f"--picture {picture}: there is no directory {picture.parent}; make it first")
    scenario = Scenario(
        sessions=_SIMULATED_SESSIONS if options.sessions is None else options.sessions,
        hours=options.hours,
        seed=options.seed,
        sessions_per_worker=options.sessions_per_worker,
        memory_per_session=options.memory_per_session,
        worker_memory=options.worker_memory,
        spare_sessions=options.spare_sessions,
        min_replicas=options.min_replicas,
        max_replicas=options.max_replicas,
        metric_delay=options.metric_delay,
        kills=options.kills,
    )
    began = time.process_time()
    result = simulate(scenario, _progress())
    seconds = time.process_time() - began
    if picture is not None:
        try:
            picture.write_text(draw(result), encoding="utf-8")
        except OSError as error:
            raise CapacityError(f"--picture {picture}: cannot be written: {error.strerror}") from error
    if options.json:
        _print_json({**_result_json(result), "cpuSeconds": round(seconds, 1)})
        return
    _print_result(result, seconds)


def _progress() -> Callable[[float], None]:
    """Tells a person at a terminal how far it is; silent elsewhere."""
    seen = sys.stderr.isatty()

    def tell(share: float) -> None:
        if seen:
            sys.stderr.write(f"\r{share:4.0%}" if share < 1 else "\r    \r")

    return tell


def _print_result(result: Result, seconds: float) -> None:
    scenario = result.scenario
    step, window = scenario.step, result.stabilization
    worst, p99, mean = result.worst_pending, result.p99_pending, result.mean_pending
    rows = [
        ("sessions", f"{scenario.sessions:,} accounts, at most {result.peak_sessions:,} at one time"),
        ("pods", f"at most {result.peak_workers:,} of {result.places_per_worker} places"),
        (
            "pending",
            f"worst {worst:.0f} s, p99 {p99:.0f} s, mean {mean:.1f} s; up to {step:.0f} s are the model's step",
        ),
        ("", f"{result.waited:,} of {result.placements:,} placements took more than one step"),
        ("", f"{result.still_pending} sessions without a place at the end"),
        ("moves", f"{result.moves_per_session:.2f} per session, at most {result.most_moves} for one"),
        ("", f"{result.worst_move:.0f} s at most without a connected browser"),
        ("", f"{result.cut} sessions cut because their drain's deadline had passed"),
        ("failures", f"{len(result.kills)} workers died, {result.orphaned} sessions lost their browser with them"),
        (
            "autoscaler",
            f"{result.replica_changes} changes, {result.direction_changes} turned round within {window:.0f} s",
        ),
        ("checked", "never more sessions on a worker than places, never two browsers for a session"),
        ("", f"{result.plans:,} plans, {result.audits} of them compared with a plan of the whole fleet"),
    ]
    sys.stdout.write(f"A day of {scenario.hours:g} hours, seed {scenario.seed}, in {seconds:.1f} s of CPU time\n\n")
    for name, text in rows:
        sys.stdout.write(f"  {name:<12}{text}\n")


def _result_json(result: Result) -> dict[str, Any]:
    values = asdict(result)
    values["moves"] = len(result.moves)
    values["kills"] = len(result.kills)
    return _camel(values)


# --- Text -----------------------------------------------------------------------------------------------------------


def _print_json(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _camel(document: dict[str, Any]) -> dict[str, Any]:
    """Names as Kubernetes writes them, at every depth."""
    return {re.sub(r"_([a-z])", lambda m: m[1].upper(), name): _value(item) for name, item in document.items()}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return _camel(value)
    return [_value(item) for item in value] if isinstance(value, list | tuple) else value


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        sys.stdout.write("  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) + "\n")


def _span(ends: Sequence[object]) -> str:
    first, last = ends
    return str(first) if first == last else f"{first}-{last}"


def _size_text(size: int) -> str:
    """Bytes in the unit in which they are easiest to read."""
    if size < 10 * 1024:
        return f"{size:,} bytes"
    if size < 10 * figures.MEBI:
        return f"{size / 1024:,.0f}Ki" if size < figures.MEBI else f"{size / figures.MEBI:.1f}Mi"
    if size < GIBI:
        return f"{size / figures.MEBI:.0f}Mi"
    return f"{size / GIBI:,.4g}Gi" if size < 100 * GIBI else f"{size / GIBI:,.0f}Gi"


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _memory(text: str) -> int:
    try:
        return parse_quantity(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _cpu(text: str) -> float:
    try:
        return parse_cpu(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
