"""What is found to differ between two versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.data.diff import diff_versions, keys_of
from ml.data.sniff import sniff
from ml.data.tally import KEYS_FILE
from ml.data.version import Recipe, build_version
from ml.errors import DataError

Make = Callable[..., Path]
ROWS = [{"text": f"message {i}", "label": "ab"[i % 2], "split": "train" if i % 4 else "test"} for i in range(20)]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def _make(rows: list[dict[str, Any]], name: str) -> Path:
        path = tmp_path / "upload"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        recipe = Recipe(
            mapping={"task": "classification", "prompt": "{text}", "completion": "{label}"},
            splits={"kind": "column", "column": "split"},
        )
        build_version(sniff(path, "rows.jsonl"), recipe, tmp_path / name)
        return tmp_path / name

    return _make


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {kind: found[kind]["n"] for kind in ("same", "changed", "moved", "added", "removed")}


def test_a_version_does_not_differ_from_itself(make: Make) -> None:
    one = make(ROWS, "one")
    assert counts(diff_versions(one, one)) == {"same": 20, "changed": 0, "moved": 0, "added": 0, "removed": 0}


def test_each_kind_of_change_is_counted_and_shown_with_its_row(make: Make) -> None:
    relabelled = {**ROWS[3], "label": "A"}
    resplit = {**ROWS[4], "split": "train"}
    new = {"text": "another", "label": "a", "split": "train"}
    old = make(ROWS, "old")
    found = diff_versions(old, make([*ROWS[1:3], relabelled, resplit, *ROWS[5:], new], "new"))
    assert counts(found) == {"same": 17, "changed": 1, "moved": 1, "added": 1, "removed": 1}
    assert found["changed"]["examples"][0]["before"]["completion"] == "b"
    assert found["changed"]["examples"][0]["after"] == {
        "row": 3, "split": "train", "n_turns": 1, "text": "message 3", "completion": "A"
    }  # fmt: skip
    assert [found["moved"]["examples"][0][side]["split"] for side in ("before", "after")] == ["test", "train"]
    assert found["added"]["examples"][0]["text"] == "another"
    assert (found["removed"]["examples"][0]["row"], found["removed"]["examples"][0]["text"]) == (1, "message 0")


def test_equal_rows_are_matched_one_to_one(make: Make) -> None:
    found = diff_versions(make([*ROWS, ROWS[1], ROWS[1]], "three"), make([*ROWS, ROWS[1]], "two"))
    assert counts(found) == {"same": 21, "changed": 0, "moved": 0, "added": 0, "removed": 1}


def test_versions_without_kept_digests_are_compared_as_well(make: Make) -> None:
    one, two = make(ROWS, "one"), make(ROWS[1:], "two")
    kept = keys_of(one)
    (one / KEYS_FILE).unlink()
    assert (keys_of(one) == kept).all()
    assert counts(diff_versions(one, two))["removed"] == 1


def test_examples_are_few_whatever_the_difference(make: Make) -> None:
    other = [{"text": f"other {i}", "label": "a", "split": "train"} for i in range(60)]
    found = diff_versions(make(ROWS, "one"), make(other, "two"))
    assert (found["added"]["n"], len(found["added"]["examples"])) == (60, 20)


def test_a_folder_that_is_no_version_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        keys_of(tmp_path)
