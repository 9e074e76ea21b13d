"""Draws a simulated day as SVG: sessions and places, workers, sessions that wait, and moves.

Owns the drawing. Must not conclude anything: what it shows is in `scenario.Result`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from whatsapp_operator.capacity.scenario import Result, Sample

_WIDTH, _LEFT, _RIGHT, _TOP = 960, 64, 150, 64
_PLOT = _WIDTH - _LEFT - _RIGHT
_GAP = 44
_POINTS = 288
"""Points of a line: five minutes of a day each. More would not be seen and makes the file larger."""
_BAR_MINUTES = 15

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
_BLUE, _ORANGE, _RED, _GREEN, _GREY = "#0072b2", "#e69f00", "#d55e00", "#009e73", "#6b7280"
_INK = "#111827"


@dataclass(frozen=True, slots=True)
class _Panel:
    """A part of the picture with a vertical axis of its own."""

    title: str
    top: float
    height: float
    highest: float
    hours: float

    def x(self, seconds: float) -> float:
        return _LEFT + _PLOT * min(seconds / 3600 / self.hours, 1.0)

    def y(self, value: float) -> float:
        return self.top + self.height * (1 - value / self.highest)

    def frame(self) -> list[str]:
        """Title, horizontal lines with their values, and ticks of the hours."""
        parts = [_text(_LEFT, self.top - 9, self.title, weight="600")]
        for value in _ticks(self.highest):
            y = self.y(value)
            parts.append(f'<path d="M{_LEFT} {y:.1f}H{_LEFT + _PLOT}" stroke="#e5e7eb"/>')
            parts.append(_text(_LEFT - 8, y + 4, f"{value:,.0f}", anchor="end", colour=_GREY))
        for hour in _hour_ticks(self.hours):
            x = self.x(hour * 3600)
            label = f"{hour:g}:00" if hour == int(hour) else f"{hour:g} h"
            parts.append(_text(x, self.top + self.height + 16, label, anchor="middle", colour=_GREY))
        parts.append(f'<path d="M{_LEFT} {self.top + self.height:.1f}H{_LEFT + _PLOT}" stroke="{_GREY}"/>')
        return parts

    def line(self, points: Sequence[tuple[float, float]], colour: str, label: str, at: float) -> list[str]:
        """A stepped line with its name at the right, `at` pixels below the panel's top."""
        path = [f"M{self.x(points[0][0]):.1f} {self.y(points[0][1]):.1f}"]
        for before, (time, value) in itertools.pairwise(points):
            if value != before[1]:
                path.append(f"H{self.x(time):.1f}V{self.y(value):.1f}")
        path.append(f"H{self.x(points[-1][0]):.1f}")
        return [
            f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="1.8"/>',
            *self.label(label, colour, at),
        ]

    def label(self, label: str, colour: str, at: float) -> list[str]:
        """A name in the right margin."""
        x, y = _LEFT + _PLOT + 12, self.top + at
        return [f'<path d="M{x} {y - 4:.1f}h14" stroke="{colour}" stroke-width="4"/>', _text(x + 20, y, label)]

    def bars(self, times: Sequence[float], values: Sequence[float], width: float, colour: str) -> list[str]:
        """Bars of `width` seconds that begin at `times`; those of height zero are left out."""
        foot = self.y(0)
        return [
            f'<path d="M{self.x(time):.1f} {foot:.1f}V{self.y(value):.1f}H{self.x(time + width):.1f}V{foot:.1f}z" '
            f'fill="{colour}"/>'
            for time, value in zip(times, values, strict=True)
            if value > 0
        ]


def draw(result: Result) -> str:
    """The picture as the text of an SVG file."""
    scenario, samples = result.scenario, result.samples
    groups = _groups(samples)
    hours = scenario.hours
    most = max(max(item.places, item.wanted) for item in samples)
    sessions = _Panel("Sessions and places", _TOP + 20, 210, _nice(most), hours)
    workers = _Panel(
        "Workers",
        sessions.top + sessions.height + _GAP,
        120,
        _nice(max(max(s.workers, s.replicas) for s in samples)),
        hours,
    )
    waits = [max(item.waiting for item in group) for group in groups]
    waiting = _Panel(
        "Sessions that wait for a place (most at one time)",
        workers.top + workers.height + _GAP, 80, _nice(max(*waits, 4)), hours,
    )  # fmt: skip
    bar = _BAR_MINUTES * 60
    moves = _per_bar(result.moves, bar, hours * 3600)
    moved = _Panel(
        f"Sessions moved by scaling in, in {_BAR_MINUTES} minutes; ▼ a worker dies",
        waiting.top + waiting.height + _GAP, 80, _nice(max(*moves, 4)), hours,
    )  # fmt: skip
    starts = [group[0].time for group in groups]
    parts = [
        *_head(result),
        *sessions.frame(),
        *sessions.line([(group[0].time, min(s.places for s in group)) for group in groups], _ORANGE, "places", 12),
        *sessions.line([(group[0].time, max(s.wanted for s in group)) for group in groups], _BLUE, "sessions", 32),
        *workers.frame(),
        *workers.line([(group[0].time, max(s.workers for s in group)) for group in groups], _GREY, "pods", 12),
        *workers.line([(group[0].time, group[0].replicas) for group in groups], _GREEN, "spec.replicas", 32),
        *waiting.frame(),
        *waiting.bars(starts, waits, max(hours * 3600 / _POINTS, 60), _RED),
        *moved.frame(),
        *moved.bars([n * bar for n in range(len(moves))], moves, bar, _BLUE),
        *(_text(moved.x(time), moved.top + 4, "▼", anchor="middle", colour=_RED) for time in result.kills),
    ]
    height = moved.top + moved.height + 34
    title = f"A simulated day with {scenario.sessions:,} sessions"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _head(result: Result) -> list[str]:
    scenario = result.scenario
    title = f"A simulated day: {scenario.sessions:,} accounts, seed {scenario.seed}"
    facts = (
        f"at most {result.peak_sessions:,} sessions on {result.peak_workers:,} pods of {result.places_per_worker} · "
        f"longest wait {result.worst_pending:.0f} s · {result.moves_per_session:.2f} moves per session · "
        f"{result.direction_changes} changes of direction within the stabilization window"
    )
    return [_text(_LEFT, 28, title, weight="600", size=17), _text(_LEFT, 48, facts, colour=_GREY)]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "400",
    size: int = 12,
    colour: str = "#111827",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _groups(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    size = max(1, math.ceil(len(samples) / _POINTS))
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _per_bar(times: Sequence[float], width: float, end: float) -> list[int]:
    counts = [0] * max(1, math.ceil(end / width))
    for time in times:
        counts[min(int(time // width), len(counts) - 1)] += 1
    return counts


def _step(highest: float) -> float:
    """A round step that divides `highest` into at most five."""
    power = 10.0 ** math.floor(math.log10(max(highest, 1) / 4))
    return next(step for step in (1 * power, 2 * power, 5 * power, 10 * power) if highest / step <= 5)


def _nice(most: float) -> float:
    """The top of an axis that shows `most`."""
    step = max(_step(most), 1)
    return max(math.ceil(most / step) * step, 1)


def _ticks(highest: float) -> list[float]:
    step = max(_step(highest), 1)
    return [step * n for n in range(int(highest / step) + 1)]


def _hour_ticks(hours: float) -> list[float]:
    step = next((step for step in (0.25, 0.5, 1, 2, 3, 6, 12, 24) if hours / step <= 10), 24)
    return [step * n for n in range(int(hours / step) + 1)]
