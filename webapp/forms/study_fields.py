"""Texts of a study's form that stand for numbers: a duration, seeds, shares of the rows.

Each is read as people write it and refused with the value that was received; bounds are the spec's own to check.
"""

from __future__ import annotations

import re

from ml.errors import SpecError

_UNITS = {"s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "minute": 60, "minutes": 60, "h": 3600,
          "hour": 3600, "hours": 3600, "d": 86_400, "day": 86_400, "days": 86_400}  # fmt: skip
_PART = re.compile(r"(\d+(?:[.,]\d+)?)\s*([a-z]*)")
_SHARE = re.compile(r"(\d*\.?\d+)\s*(%?)")
_NO_LIMIT = ("", "0", "no", "none", "no limit")
DURATION_HINT = "For example 30 (minutes), 45 min or 4 h 30 min; empty for no limit."


def seconds_of(text: str) -> float:
    """`30`, `30 min`, `4 h 30 min`, `1.5 h`: a number without a unit is minutes; nothing is 0, no limit."""
    given = " ".join(text.lower().split())
    if given in _NO_LIMIT:
        return 0.0
    parts = _PART.findall(given)
    is_whole = re.sub(r"[\s]", "", _PART.sub("", given)) == ""
    if not parts or not is_whole or any(unit and unit not in _UNITS for _, unit in parts):
        raise SpecError(f"The budget is a time, got {text[:40]!r}.", hint=DURATION_HINT, field="budget")
    if len(parts) > 1 and not all(unit for _, unit in parts):
        raise SpecError(f"The budget {text[:40]!r} has a number without a unit.", hint=DURATION_HINT, field="budget")
    return sum(float(number.replace(",", ".")) * _UNITS[unit or "min"] for number, unit in parts)


def duration_text(seconds: float) -> str:
    """The other way round: 16200 → `4 h 30 min`; 0 → ``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def seeds_of(text: str) -> list[int]:
    """`17, 18, 19`."""
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    for word in words:
        if not re.fullmatch(r"-?\d{1,12}", word):
            raise SpecError(f"Seeds are whole numbers with commas between, got {word[:40]!r}.", field="seeds",
                            hint="For example 17, 18, 19.")  # fmt: skip
    return [int(word) for word in words]


def shares_of(text: str) -> list[float]:
    """`0.1, 0.3` or `10 %, 30 %`."""
    found = []
    for word in filter(None, (part.strip() for part in re.split(r"[,;]", text))):
        match = _SHARE.fullmatch(word)
        if match is None:
            raise SpecError(f"A share is a number such as 0.1 or 10 %, got {word[:40]!r}.", field="shares",
                            hint="Put commas between several.")  # fmt: skip
        found.append(float(match[1]) / (100 if match[2] else 1))
    return found
