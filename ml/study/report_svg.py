"""The charts of a report as SVG that fits any width: x in per cent, y in pixels, so texts keep their size.

No script: what a chart shows stands in its label and in the report's tables. Badges carry the place in the leaderboard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ml.study.markup import Html, html, joined
from ml.study.report_scale import Scale

N_COLOURS = 4
_HEIGHT = 280
_BADGE = 8.5
"""Radius of a badge, in pixels."""
_WIDTHS = (300, 560)
"""Widths of a plot at which badges must not hide one another: a phone's and a screen's."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Of a chart of quality and cost."""

    place: int
    x: float
    y: float
    interval: Sequence[float]
    on_front: bool
    is_asked: bool
    label: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """Of a chart of curves."""

    place: int
    label: str
    points: Sequence[tuple[float, float]]
    """In the units of the axes, left to right."""
    intervals: Sequence[Sequence[float]] = ()

    @property
    def style(self) -> str:
        """Colours in turn, and dashes once they are used up."""
        turn = self.place - 1
        return f"c{turn % N_COLOURS + 1} d{turn // N_COLOURS % 4}"


def pct(share: float) -> str:
    return f"{100 * share:.2f}%"


def whisker(value: float, interval: Sequence[float], scale: Scale, *, is_asked: bool, label: str) -> Html:
    """A value with its interval on a line."""
    low, high = scale.at(interval[0]), scale.at(interval[1])
    ticks = joined(html('<line class="axis" x1="{x}" x2="{x}" y1="6" y2="14"/>', x=pct(scale.at(at)))
                   for at, _ in scale.ticks)  # fmt: skip
    return html(
        '<svg class="whisker{kind}" role="img" aria-label="{label}" height="20">'
        '<line class="axis" x1="0" x2="100%" y1="10" y2="10"/>{ticks}'
        '<line class="iv" x1="{low}" x2="{high}" y1="10" y2="10"/><line class="iv" x1="{low}" x2="{low}" y1="6.5" '
        'y2="13.5"/><line class="iv" x1="{high}" x2="{high}" y1="6.5" y2="13.5"/>'
        '<circle class="pt" cx="{at}" cy="10" r="3.5"/></svg>',
        kind=" asked" if is_asked else "", label=label, ticks=ticks, low=pct(low), high=pct(high),
        at=pct(scale.at(value)),
    )  # fmt: skip


def scatter(points: Sequence[Point], x: Scale, y: Scale, *, label: str) -> Html:
    """Quality against cost: intervals upright, the frontier as a stair."""
    placed = {point.place: (x.at(point.x), _down(y, point.y, _HEIGHT)) for point in points}
    front = sorted(placed[point.place] for point in points if point.on_front)
    stairs = [
        html(
            '<line class="front" x1="{a}" y1="{b}" x2="{c}" y2="{b}"/><line class="front" x1="{c}" y1="{b}" x2="{c}" '
            'y2="{d}"/>',
            a=pct(one[0]), b=_px(one[1]), c=pct(other[0]), d=_px(other[1]),
        )
        for one, other in pairwise(front)
    ]  # fmt: skip
    aside = _offsets(placed)
    dots = [_dot(point, *placed[point.place], aside[point.place], y) for point in points]
    return _frame(joined([*stairs, *dots]), x, y, height=_HEIGHT, label=label)


def _dot(point: Point, share: float, down: float, aside: float, y: Scale) -> Html:
    """A point with its interval and, a step aside, its badge."""
    kind = "on" if point.on_front else "asked" if point.is_asked else "off"
    ends = [_px(_down(y, bound, _HEIGHT)) for bound in point.interval]
    return html(
        '<g class="{kind}"><title>{label}</title><line class="iv" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'
        '<g transform="translate({half} 0)"><line class="iv" x1="{x}" x2="{x}" y1="{y}" y2="{y}"/></g>'
        '<circle class="pt" cx="{x}" cy="{y}" r="3.5"/>{badge}</g>',
        kind=kind, label=point.label, x=pct(share), y=_px(down), low=ends[0], high=ends[1], half=aside / 2,
        badge=_badge(point.place, pct(share), down, aside),
    )  # fmt: skip


def _badge(place: int, x: str, y: float, aside: float = 0.0) -> Html:
    return html(
        '<g class="badge" transform="translate({aside} 0)"><circle cx="{x}" cy="{y}" r="{r}"/><text x="{x}" y="{y}" '
        'dy="3.5">{place}</text></g>', aside=f"{aside:g}", x=x, y=_px(y), r=_BADGE, place=place,
    )  # fmt: skip


def _offsets(placed: Mapping[int, tuple[float, float]]) -> dict[int, float]:
    """How far aside each badge stands, in pixels, so that it hides neither points nor other badges at any width."""
    found: dict[int, float] = {}
    for place, (share, down) in placed.items():
        steps = (15, -15, 25, -25, 35, -35, 45, -45)
        found[place] = min(steps, key=lambda step: (_clashes(placed, found, place, share, down, step), abs(step)))
    return found


def _clashes(
    placed: Mapping[int, tuple[float, float]], found: Mapping[int, float], place: int, share: float, down: float,
    step: float,
) -> int:  # fmt: skip
    n = 0
    for width in _WIDTHS:
        x = share * width + step
        n += 2 * (x < 0 or x > width + 12)
        for other, (at, low) in placed.items():
            if other == place:
                continue
            n += math.hypot(at * width - x, low - down) < _BADGE + 4
            if other in found:
                n += 2 * (math.hypot(at * width + found[other] - x, low - down) < 2 * _BADGE + 1)
    return n


def lines(curves: Sequence[Line], x: Scale, y: Scale, *, label: str, rules: Iterable[tuple[float, str]] = ()) -> Html:
    """Curves with their badges at the right end; `rules` are values that lie across the whole chart."""
    height = max(_HEIGHT, round(2.2 * _BADGE * (len(curves) + 1)))
    drawn = [_curve(curve, x, y, height) for curve in curves]
    across = [
        html('<line class="rule" x1="0" x2="100%" y1="{y}" y2="{y}"/><text class="ruled" x="4" y="{y}" dy="-4">{text}'
             '</text>', y=_px(_down(y, value, height)), text=text)
        for value, text in rules
    ]  # fmt: skip
    return _frame(joined([*across, *drawn]), x, y, height=height, label=label, ends=_ends(curves, y, height))


def _curve(curve: Line, x: Scale, y: Scale, height: int) -> Html:
    placed = [(pct(x.at(a)), _px(_down(y, b, height))) for a, b in curve.points]
    parts = [
        html('<line x1="{a}" y1="{b}" x2="{c}" y2="{d}"/>', a=one[0], b=one[1], c=other[0], d=other[1])
        for one, other in pairwise(placed)
    ]
    parts += [
        html('<line class="iv" x1="{x}" x2="{x}" y1="{a}" y2="{b}"/>', x=at,
             a=_px(_down(y, bounds[0], height)), b=_px(_down(y, bounds[1], height)))
        for (at, _), bounds in zip(placed, curve.intervals, strict=False)
    ]  # fmt: skip
    parts += [html('<circle cx="{x}" cy="{y}" r="2.2"/>', x=a, y=b) for a, b in placed]
    return html('<g class="curve {style}"><title>{label}</title>{parts}</g>', style=curve.style, label=curve.label,
                parts=joined(parts))  # fmt: skip


def _ends(curves: Sequence[Line], y: Scale, height: int) -> Html:
    """A badge for each curve beside its last point, moved apart where they would lie on one another."""
    wanted = sorted((_down(y, curve.points[-1][1], height), curve.place, curve) for curve in curves if curve.points)
    places = apart([down for down, _, _ in wanted], distance=2 * _BADGE + 1.5, low=_BADGE, high=height - _BADGE)
    return joined(
        html('<g class="curve {style}"><line class="lead" x1="0" y1="{a}" x2="9" y2="{b}"/>{badge}</g>',
             style=curve.style, a=_px(down), b=_px(to), badge=_badge(curve.place, "18", to))
        for (down, _, curve), to in zip(wanted, places, strict=True)
    )  # fmt: skip


def apart(wanted: Sequence[float], *, distance: float, low: float, high: float) -> list[float]:
    """Places of ascending values that are `distance` or more from one another and move as little as that allows, by
    pooling neighbours that are too close; within `low` and `high` as far as there is room."""
    pools: list[list[float]] = []
    for place, value in enumerate(wanted):
        pools.append([value - place * distance])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    room = max(low, high - (len(wanted) - 1) * distance)
    levels = [min(room, max(low, _mean(pool))) for pool in pools for _ in pool]
    return [level + place * distance for place, level in enumerate(levels)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _frame(inside: Html, x: Scale, y: Scale, *, height: int, label: str, ends: Html | None = None) -> Html:
    """Axes around a plot: three columns, of which the middle one takes what is there."""
    levels = [(_px(_down(y, value, height)), text) for value, text in y.ticks]
    uprights = [(x.at(value), text) for value, text in x.ticks]
    grid = [html('<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>', y=at) for at, _ in levels]
    grid += [html('<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{h}"/>', x=pct(at), h=height)
             for at, _ in uprights]  # fmt: skip
    left = joined(html('<text x="100%" dx="-6" y="{y}" dy="4">{text}</text>', y=at, text=text) for at, text in levels)
    below = joined(
        html('<text class="{side}" x="{x}" y="14">{text}</text>', x=pct(at), text=text,
             side="first" if at < 0.03 else "last" if at > 0.97 else "")
        for at, text in uprights
    )  # fmt: skip
    return html(
        '<div class="plot"><svg class="ys" aria-hidden="true" height="{h}">{left}</svg><svg class="area" role="img" '
        'aria-label="{label}" height="{h}">{grid}{inside}</svg><svg class="ends" aria-hidden="true" height="{h}">{ends}'
        '</svg><svg class="xs" aria-hidden="true" height="20">{below}</svg></div>',
        h=height, left=left, label=label, grid=joined(grid), inside=inside, ends=ends or Html(), below=below,
    )  # fmt: skip


def _down(y: Scale, value: float, height: int) -> float:
    """Pixels from the top, with room for half a mark."""
    return 6 + (1 - y.at(value)) * (height - 12)


def _px(value: float) -> str:
    return f"{value:.1f}"
