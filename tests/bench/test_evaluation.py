"""The bench of evaluations makes its rows, or takes them from a data set; what it times has tests of its own."""

from __future__ import annotations

import json
from pathlib import Path

from bench.evaluation import ANSWERED, LABELS, Spent, labels_of, median, rows_of


def test_rows_are_made_up_around_one_instruction() -> None:
    rows = rows_of(None, 5, ANSWERED)
    assert len(set(rows)) == 5 and all(row.startswith("Answer the bank customer's message") for row in rows)
    assert len(LABELS) == len(set(LABELS)) == 77


def test_rows_and_labels_come_from_a_data_set_when_its_folder_is_given(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps({"prompt": f"p{n}", "completion": "a"}) + "\n" for n in range(3))
    )
    (tmp_path / "meta.json").write_text('{"labels": ["a", "b"]}')
    assert rows_of(tmp_path, 2) == ["p0", "p1"]
    assert rows_of(tmp_path, 9) == ["p0", "p1", "p2"]
    assert labels_of(tmp_path) == ["a", "b"]


def test_medians_are_taken_of_wall_and_processor_apart() -> None:
    assert median([Spent(1, 9), Spent(2, 8), Spent(9, 1)]) == Spent(2, 8)
