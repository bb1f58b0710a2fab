"""Numbers as people read them: 96.7 %, [92.4, 98.6], 46 kB, 11 min, 2.4 M. A dash for what is unknown."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "–"


def percent(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def bounds(interval: Sequence[float] | None) -> str:
    """An interval of shares in per cent, without the sign."""
    if not interval:
        return ""
    low, high = (f"{round(100 * bound, 1) + 0:.1f}".replace("-", "−") for bound in interval)
    return f"[{low}, {high}]"


def points(difference: float) -> str:
    """A difference of shares; its sign is left to the sentence."""
    text = f"{abs(100 * difference):.1f}"
    return f"{text} point" if text == "1.0" else f"{text} points"


def size(n_bytes: float | None) -> str:
    """In decimal units, as file managers show them."""
    if n_bytes is None:
        return NOTHING
    value = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit != "MB" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.0f} GB" if value >= 100 else f"{value:.1f} GB"


def duration(seconds: float | None) -> str:
    """45 s, 5 min 50 s, 11 min, 2 h 10 min."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def milliseconds(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value / 1000:.1f} s" if value >= 999.5 else f"{value:.0f} ms" if value >= 9.95 else f"{value:.1f} ms"


def count(value: float | None) -> str:
    """2.4 M from a million on, else every digit."""
    if value is None:
        return NOTHING
    for unit, factor in (("G", 1e9), ("M", 1e6)):
        if value >= factor:
            return f"{value / factor:.0f} {unit}" if value >= 100 * factor else f"{value / factor:.1f} {unit}"
    return f"{round(value):,}"


def about(value: float) -> str:
    """A number of rows to two digits: 1,900."""
    digits = len(str(round(value))) - 2
    return f"{round(value, -digits):,.0f}" if digits > 0 else f"{round(value):,}"


def rate(value: float | None) -> str:
    """A learning rate: 0.03, 0.0001, 3.3e-05."""
    return NOTHING if value is None else f"{value:.2g}" if value < 1e-3 else f"{value:.3g}"


def ratio(more: float, less: float) -> str:
    """8.6 ×, 211 ×."""
    found = more / less
    return f"{found:,.0f} ×" if found >= 9.95 else f"{found:.1f} ×"


def name(label: str) -> str:
    """A technique inside a sentence: `Few-shot, nearest` → `Few-shot (nearest)`, so that lists can be read."""
    head, comma, tail = label.partition(", ")
    return f"{head} ({tail})" if comma else label


def listed(parts: Sequence[str]) -> str:
    """A, B and C."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def several(n: int, noun: str) -> str:
    """1 row, 2 rows."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def midsentence(label: str) -> str:
    """`Token F1` → `token F1`, while `BLEU` and `ROUGE-L` stay."""
    return label if label[1:2].isupper() else label[:1].lower() + label[1:]
