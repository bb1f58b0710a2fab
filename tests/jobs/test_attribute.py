"""A marker is added only where the answer's words stand in a source."""

from __future__ import annotations

import pytest

from jobs.attribute import marker_for

HITS = [
    {"n": 1, "text": "A tree standing upon the boundary line belongs to both neighbours in common."},
    {"n": 2, "text": "Notice must be given at least twenty days before the end of a rental month."},
]


@pytest.mark.parametrize(
    ("answer", "marker"),
    [
        ("The tree belongs to both neighbours.", " [1]"),
        ("Twenty days before the month ends.", " [2]"),
        ("The tree belongs to both neighbours [1].", ""),
        ("The tree belongs to both [2, 1].", ""),
        ("Paris is the capital of France.", ""),
        ("Trees.", ""),
        ("", ""),
        ("The tree belongs to both neighbours [7].", " [1]"),
    ],
)
def test_the_source_that_shares_most_words_is_named(answer: str, marker: str) -> None:
    assert marker_for(answer, HITS) == marker


def test_without_sources_there_is_no_marker() -> None:
    assert marker_for("The tree belongs to both.", []) == ""
