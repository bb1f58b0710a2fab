"""Which rows a study uses: shares that hold one another, labels in proportion, and the splits' first rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.data.rows import Dataset
from ml.errors import DataError
from ml.study.drawing import drawn, in_order, share_of
from tests.ml.study.studying import dataset_of, small_spec

LABELS = ("blue", "green", "red")
labelled = st.lists(st.sampled_from(LABELS), min_size=1, max_size=60)
shares = st.floats(min_value=0.01, max_value=0.99)


def dataset(answers: list[str], *, is_labelled: bool = True, **splits: Any) -> Dataset:
    pairs = [(f"question {i}", answer) for i, answer in enumerate(answers)]
    held = {"validation": pairs[:9] or [("v", "red")], "test": pairs[:9] or [("t", "red")], **splits}
    return dataset_of(pairs, labels=LABELS if is_labelled else (), **held)


def numbers(found: Dataset, split: str = "train") -> list[int]:
    return [row.number for row in found.splits[split]]


@given(labelled, shares, shares)
def test_the_smaller_share_is_a_beginning_of_the_larger(answers: list[str], one: float, other: float) -> None:
    whole = drawn(dataset(answers), small_spec())
    small, large = sorted((one, other))
    few, many = numbers(share_of(whole, small)), numbers(share_of(whole, large))
    assert few == many[: len(few)] == numbers(whole)[: len(few)]
    assert len(few) == max(1, round(small * len(answers)))


@given(labelled)
def test_every_beginning_has_the_labels_in_proportion(answers: list[str]) -> None:
    """No label is ahead of another by more than a row."""
    ordered = [row.completion for row in in_order(dataset(answers).splits["train"], by_label=True)]
    whole, so_far = Counter(answers), Counter[str]()
    for answer in ordered:
        so_far[answer] += 1
        ahead = max((so_far[label] - 1) / n for label, n in whole.items())
        behind = min(so_far[label] / n for label, n in whole.items())
        assert ahead <= behind


@given(labelled)
def test_the_first_row_of_every_label_comes_first(answers: list[str]) -> None:
    """With more labels than half the rows they were taken for free answers, and a head lacked some of them."""
    ordered = drawn(dataset(answers), small_spec()).splits["train"]
    n_labels = len(set(answers))
    assert {row.completion for row in ordered[:n_labels]} == set(answers)


@given(st.permutations([(f"question {i}", LABELS[i % 2]) for i in range(12)]))
def test_the_order_is_one_of_content_alone(pairs: list[tuple[str, str]]) -> None:
    """Whoever reads the same rows in another order draws the same ones."""
    rows = sorted(dataset_of(sorted(pairs), labels=LABELS).splits["train"], key=lambda row: pairs.index(
        (row.messages[0]["content"], row.completion)))  # fmt: skip
    asked = [row.messages[0]["content"] for row in in_order(rows, by_label=True)]
    again = [row.messages[0]["content"] for row in in_order(rows[::-1], by_label=True)]
    assert asked == again


@given(st.sets(st.integers(0, 19)))
def test_free_answers_have_one_order_whatever_they_are(left_out: set[int]) -> None:
    rows = dataset(["yes"] * 18 + ["no"] * 2, is_labelled=False).splits["train"]
    whole = [row.number for row in in_order(rows, by_label=False)]
    some = in_order([row for i, row in enumerate(rows) if i not in left_out], by_label=False)
    assert [row.number for row in some] == [number for number in whole if number - 1 not in left_out]


def test_validation_and_test_are_the_splits_first_rows() -> None:
    pairs = [(f"q{i}", "red") for i in range(20)]
    found = drawn(dataset(["red"] * 4, validation=pairs, test=pairs), small_spec(valid_rows=8, test_rows=6))
    assert numbers(found, "validation") == list(range(5, 13))
    assert numbers(found, "test") == list(range(25, 31))


@pytest.mark.parametrize(("asked", "got"), [(0, 12), (5, 5), (50, 12)])
def test_at_most_so_many_training_rows_are_used(asked: int, got: int) -> None:
    whole = drawn(dataset(["red", "blue"] * 6), small_spec())
    found = drawn(dataset(["red", "blue"] * 6), small_spec(train_rows=asked))
    assert numbers(found) == numbers(whole)[:got]


def test_the_rows_that_were_drawn_have_a_name_of_their_own() -> None:
    whole = dataset(["red", "blue"] * 6)
    names = {drawn(whole, small_spec(train_rows=n)).content_sha256 for n in (0, 5, 6)}
    assert len(names | {whole.content_sha256}) == 4
    found = drawn(whole, small_spec())
    assert found.content_sha256 == drawn(whole, small_spec()).content_sha256 != share_of(found, 0.5).content_sha256
    assert share_of(found, 1.0) is found


@pytest.mark.parametrize(
    ("split", "n_tries", "says"), [("test", 1, "measured on"), ("validation", 2, "chooses learning rates by")]
)
def test_a_split_that_is_needed_and_empty_is_refused(split: str, n_tries: int, says: str) -> None:
    with pytest.raises(DataError, match=f"{says} the {split} rows") as caught:
        drawn(dataset(["red"], **{split: ()}), small_spec(n_tries=n_tries))
    assert caught.value.field == "dataset"


def test_without_a_search_no_validation_rows_are_needed() -> None:
    assert drawn(dataset(["red"], validation=()), small_spec(n_tries=1)).splits["validation"] == []
