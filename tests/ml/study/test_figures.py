"""What is known of a study's rows: lengths as training counts them, prompts as the study asks them."""

from __future__ import annotations

from typing import Any

import pytest

from ml.data.chat import completion_ids, example_ids, prompt_ids
from ml.data.rows import Dataset, Row
from ml.errors import DataError
from ml.study.asking import Asking
from ml.study.figures import DataFigures, figures_of
from tests.ml.study.studying import small_rows, small_spec
from tests.ml.tiny import tiny_tokenizer, tiny_tokenizer_for

LABELS = ["blue", "green", "red"]
N_ROWS = {"train": 40, "validation": 10, "test": 6}
ASKED = ("plain", "zero_shot", "few_shot", "few_shot_nearest", "chain_of_thought")


def rows(task: str = "classification", n: int = 30) -> list[Row]:
    return [
        Row(number=row["row"], messages=row["messages"], completion=row["completion"]) for row in small_rows(task, n)
    ]


def found(sample: list[Row], task: str = "classification", family: str = "decoder", **given: Any) -> DataFigures:
    shape = {"decoder": "llama", "encoder": "bert", "encoder_decoder": "t5"}[family]
    known = {"mapping": {}, "lengths": None, **given}
    return figures_of(
        sample, spec=small_spec(task, **{"techniques": ASKED, **known.pop("spec", {})}), task=task,
        labels=LABELS if task == "classification" else [], n_rows=N_ROWS, tokenizer=tiny_tokenizer_for(shape),
        family=family, **known,
    )  # fmt: skip


def test_lengths_are_those_that_training_sees() -> None:
    tokenizer, sample = tiny_tokenizer(), rows()
    examples = [example_ids(tokenizer, row.messages, row.completion, 96) for row in sample]
    said = found(sample)
    assert said.mean == pytest.approx(sum(one.n_tokens for one in examples) / len(examples))
    assert said.longest == max(one.n_tokens for one in examples)
    assert said.n_targets == pytest.approx(sum(one.n_targets for one in examples) / len(examples))
    assert said.label_tokens == tuple(len(completion_ids(tokenizer, label)) for label in LABELS)
    assert (said.n_train, said.n_valid, said.n_test) == (40, 10, 6)
    assert 0 < said.n_shared < said.mean


def test_prompts_are_as_long_as_those_that_are_really_asked() -> None:
    sample = rows()
    spec = small_spec(techniques=ASKED)
    dataset = Dataset(task="classification", kind="classification", labels=LABELS, sha256="", content_sha256="",
                      splits={"train": sample[4:], "validation": [], "test": sample[:4]})  # fmt: skip
    asking = Asking(spec, dataset, {}, lambda texts: pytest.fail("nothing is embedded"))
    said = found(sample).asked
    for name in ("zero_shot", "few_shot", "chain_of_thought"):
        asked = asking.technique(name, 17)
        lengths = [len(prompt_ids(tiny_tokenizer(), asked.messages(row, {}))) for row in dataset.splits["test"]]
        more = said["plain"].n_tokens - sum(len(prompt_ids(tiny_tokenizer(), row.messages)) for row in sample[:4]) / 4
        assert said[name].n_tokens == pytest.approx(sum(lengths) / 4 + more)
        assert said[name].has_steps == (name == "chain_of_thought")


def test_examples_stand_in_every_prompt_unless_they_are_the_nearest() -> None:
    said = found(rows()).asked
    assert said["few_shot"].n_tokens == said["few_shot_nearest"].n_tokens > said["zero_shot"].n_tokens + 50
    assert said["few_shot_nearest"].n_shared == said["zero_shot"].n_shared
    assert said["few_shot"].n_shared > said["few_shot_nearest"].n_shared + 20


def test_more_examples_than_the_sample_has_are_as_long_as_those_it_has() -> None:
    few, many = (found(rows(n=8), spec={"n_examples": n}).asked["few_shot"].n_tokens for n in (4, 32))
    told = found(rows(n=8)).asked["zero_shot"].n_tokens
    assert many - told == pytest.approx(8 * (few - told))


def test_lengths_of_all_rows_count_where_they_are_known() -> None:
    alone = found(rows())
    tokens = found(rows(), lengths={"unit": "tokens", "mean": 60, "longest": 90})
    assert (tokens.mean, tokens.longest) == (60, 90)
    assert tokens.asked["plain"].n_tokens == pytest.approx(60 - alone.n_targets)
    n_characters = sum(len(row.completion) + len(row.messages[0]["content"]) for row in rows()) / 30
    twice = found(rows(), lengths={"unit": "characters", "mean": 2 * n_characters, "longest": 3 * n_characters})
    assert twice.mean == pytest.approx(min(96, 2 * alone.mean))


def test_no_row_is_longer_than_the_study_allows() -> None:
    said = found(rows(), lengths={"unit": "tokens", "mean": 900, "longest": 5000})
    assert said.mean == said.longest == 96


@pytest.mark.parametrize("family", ["encoder", "encoder_decoder"])
def test_other_families_are_asked_nothing_in_words(family: str) -> None:
    said = found(rows(), family=family)
    assert said.asked == {}
    assert said.n_nodes == said.n_shared == 0
    assert len(said.label_tokens) == 3
    assert said.mean > 1


def test_free_answers_have_no_labels() -> None:
    said = found(rows("generation"), "generation")
    assert said.label_tokens == ()
    assert said.n_targets > 3


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_rows_is_enough(n: int) -> None:
    said = found(rows(n=n))
    assert all(one.n_tokens > one.n_shared for one in said.asked.values())


def test_no_row_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no row to plan with"):
        found([])


def test_retrieval_s_prompts_are_as_long_as_their_passages() -> None:
    asked = {"techniques": ["zero_shot", "retrieval"], "collection": "handbook"}
    one, two = (found(rows(), spec=asked, passages=["Snow is white and cold."] * n).asked["retrieval"] for n in (1, 2))
    assert one.n_tokens > found(rows(), spec=asked).asked["zero_shot"].n_tokens
    assert two.n_tokens > one.n_tokens + 10
    assert two.n_shared == one.n_shared
