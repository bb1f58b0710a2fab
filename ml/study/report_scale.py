"""Axes of the reports' charts: where a value lies, as a share of the axis, and which ticks it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ml.study import words

MOST_TICKS = 5
_LEAST = 1e-12
_ROOM = 1.3
"""Factor by which a logarithmic axis goes on beyond its values."""
_NONE_AT = 0.07
"""Where zero lies on a logarithmic axis: apart, since its logarithm is nowhere."""
_DURATIONS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18_000, 36_000, 86_400, 172_800, 604_800)


@dataclass(frozen=True, kw_only=True)
class Scale:
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    """Values and what stands at them."""
    is_log: bool = False
    has_zero: bool = False
    """A logarithmic axis that begins with a place for zero."""

    def at(self, value: float) -> float:
        """Share of the axis, within 0 and 1."""
        if not self.is_log:
            return _within((value - self.low) / (self.high - self.low))
        begin = 2 * _NONE_AT if self.has_zero else 0.0
        if value <= 0:
            return _NONE_AT if self.has_zero else 0.0
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return begin + (1 - begin) * _within(share)


def _within(share: float) -> float:
    return min(1.0, max(0.0, share))


def shares(values: Sequence[float]) -> Scale:
    """Of shares of 1: whole tenths around the values, or all from 0 to 1 where they take most of it."""
    low, high = math.floor(10 * min(values) + 1e-9), math.ceil(10 * max(values) - 1e-9)
    low, high = (0, 10) if high - low > 6 else (max(0, min(low, 9)), min(10, max(high, low + 1)))
    step = 2 if high - low > 5 else 1
    ticks = [
        (tenth / 10, f"{10 * tenth}{' %' if tenth == high else ''}")
        for tenth in range(low, high + 1) if (high - tenth) % step == 0
    ]  # fmt: skip
    return Scale(low=low / 10, high=high / 10, ticks=ticks)


def linear(values: Sequence[float], *, text: Callable[[float], str] = "{:g}".format) -> Scale:
    """From zero to a round number above the values; what is hardly more than zero counts as zero."""
    top = max(values) if max(values) > _LEAST else 1.0
    unit = 10 ** math.floor(math.log10(top))
    step = next(factor * unit for factor in (0.2, 0.5, 1, 2) if top / (factor * unit) <= MOST_TICKS)
    n = math.ceil(top / step - 1e-9)
    return Scale(low=0.0, high=n * step, ticks=[(i * step, text(round(i * step, 12))) for i in range(n + 1)])


def logarithmic(values: Sequence[float], *, text: Callable[[float], str]) -> Scale:
    """Of values from 0 up; zeros get a place of their own."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive) / _ROOM, max(positive) * _ROOM
    has_zero = len(positive) < len(values)
    marks = _DURATIONS if text is words.duration else _decades(low, high)
    chosen = _thinned([mark for mark in marks if low <= mark <= high])
    ticks = [(float(mark), text(mark).replace(".0 ", " ")) for mark in chosen or [math.sqrt(low * high)]]
    return Scale(low=low, high=high, ticks=[*([(0.0, "0")] if has_zero else []), *ticks], is_log=True,
                 has_zero=has_zero)  # fmt: skip


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in (1, 2, 5)]


def _thinned(marks: list[float]) -> list[float]:
    """At most a handful: whole decades where there are some, else every second, third … mark."""
    if len(marks) > MOST_TICKS:
        whole = [mark for mark in marks if math.isclose(math.log10(mark) % 1, 0, abs_tol=1e-9)]
        marks = whole if len(whole) > 2 else marks
    return marks[:: math.ceil(len(marks) / MOST_TICKS)] if marks else []
