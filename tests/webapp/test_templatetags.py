"""How sizes, times, shares and states are written."""

from __future__ import annotations

import pytest

from webapp.templatetags import cf


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (46_080, "46 kB"),
        (9_800_000, "9.8 MB"),
        (123e6, "123 MB"),
        (2.5e12, "2500 GB"),
        (None, "–"),
    ],
)
def test_sizes_are_decimal(given: float, shown: str) -> None:
    assert cf.size(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [(0.4, "0 s"), (45, "45 s"), (350, "5 min 50 s"), (660, "11 min"), (7800, "2 h 10 min"), (7200, "2 h"), ("", "–")],
)
def test_durations_read_as_people_say_them(given: float, shown: str) -> None:
    assert cf.duration(given) == shown


def test_a_bar_never_leaves_its_box() -> None:
    assert 'width="100.0%"' in cf.bar(7, 5)
    assert 'width="0.0%"' in cf.bar(None, None)
    assert 'width="0.0%"' in cf.bar(1, 0)


def test_a_metric_carries_its_interval() -> None:
    assert cf.interval(0.967, [0.924, 0.986]) == ('<span class="cf-iv"><b>96.7</b> <span>[92.4, 98.6]</span></span>')
    assert cf.interval(None) == "–"


def test_what_is_shown_is_escaped() -> None:
    assert "<b>" not in cf.state("queued", "<b>")
    assert "<b>" not in cf.icon("<b>")
