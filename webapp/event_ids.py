"""The ids of a stream's events: how far each of its answers was read. `12:1700-0_13:1700-3` is answer 12 up to entry
1700-0 of its own stream, and so on. A browser sends the last one back as Last-Event-ID, anyone else as `?after=`.
"""

from __future__ import annotations

from collections.abc import Mapping

from django.http import HttpRequest

_LONGEST = 2000


def event_id(positions: Mapping[int, str]) -> str:
    return "_".join(f"{answer}:{position}" for answer, position in positions.items())


def positions_of(text: str) -> dict[int, str]:
    """Positions out of an event id; nonsense counts as the beginning."""
    found: dict[int, str] = {}
    for part in text[:_LONGEST].split("_"):
        answer, _, position = part.partition(":")
        ms, _, count = position.partition("-")
        if all(s.isascii() and s.isdigit() and len(s) < 20 for s in (answer, ms, count)):
            found[int(answer)] = position
    return found


def asked_after(request: HttpRequest) -> dict[int, str]:
    """Where a reader wants to go on."""
    return positions_of(request.headers.get("Last-Event-ID") or request.GET.get("after", ""))


def is_behind(position: str, last: str) -> bool:
    """Whether an entry comes after the one read last."""
    return _pair(position) > _pair(last)


def _pair(position: str) -> tuple[int, int]:
    ms, _, count = position.partition("-")
    return int(ms), int(count or 0)
