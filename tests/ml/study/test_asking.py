"""How the untouched model is asked: examples from training rows alone, by the seed or the nearest; frames as the
library keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.data.rows import Dataset, Row
from ml.errors import DataError
from ml.specs.prompting import LABELS, Frame, Pair, placeholders
from ml.study.asking import AS_ROWS, Asked, Asking, draw
from ml.study.passages import Passages
from tests.ml.study.studying import dataset_of, small_spec

COLOURS = ("blue", "green", "red")
ASKED = ["zero_shot", "few_shot", "few_shot_nearest", "chain_of_thought", "self_consistency"]
FRAMED = {"format": "columns", "prompt": "What colour is {thing}?", "completion": "{colour}"}


def lengths(texts: Sequence[str]) -> NDArray[np.float32]:
    """Stands in for an embedding model: texts of like length are near."""
    angles = np.array([len(text) / 100 for text in texts], dtype=np.float32)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def colours(n: int = 12) -> list[Pair]:
    return [(f"What colour is {'x' * (i + 1)}?", COLOURS[i % 3]) for i in range(n)]


def labelled(**splits: Any) -> Dataset:
    test = [("What colour is the sea?", "blue"), ("What colour is it?", "red")]
    return dataset_of(splits.pop("train", colours()), labels=COLOURS, **{"test": test, **splits})


def free(answers: Sequence[str] = ("an egg", "a stone"), *, kind: str = "generation") -> Dataset:
    pairs = [(f"Say {i}.", answers[i % len(answers)]) for i in range(12)]
    return dataset_of(pairs, test=[("Say it.", answers[0])], kind=kind)


def asking(dataset: Dataset, mapping: Mapping[str, Any] | None = None, **changes: Any) -> Asking:
    return Asking(small_spec(dataset.task, **changes), dataset, mapping or {}, lengths)


def as_the_library_asks(asked: Asked, dataset: Dataset) -> Frame:
    """The frame that is made of a prompt version which was saved from `about`: webapp.selectors.framing."""
    about = asked.about
    return Frame(
        system=about["system"], template=about["template"],
        fields=tuple(name for name in placeholders(about["template"]) if name != LABELS),
        constants={LABELS: ", ".join(dataset.labels)} if dataset.labels else {},
        examples=tuple((e["question"], e["answer"]) for e in about["examples"]),
        takes_history=dataset.task != "classification", rule=about["rule"], n_samples=about["n_samples"],
        sample_temperature=about["sample_temperature"],
    )  # fmt: skip


@pytest.mark.parametrize("mapping", [{}, FRAMED], ids=["bare", "framed"])
@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("dataset", [labelled(), free()], ids=["labels", "texts"])
def test_a_row_is_asked_as_the_saved_prompt_would_ask_it(name: str, dataset: Dataset, mapping: dict[str, Any]) -> None:
    made = asking(dataset, mapping)
    asked, row = made.technique(name, 17), dataset.splits["test"][0]
    typed = "the sea" if mapping and dataset.labels else row.messages[-1]["content"]
    found = asked.examples.get(typed, ())
    assert bool(found) == (name == "few_shot_nearest")
    folded = as_the_library_asks(asked, dataset).fold([{"role": "user", "content": typed}], found)
    assert asked.messages(row, mapping) == folded


def test_the_plain_model_is_asked_as_the_rows_are() -> None:
    dataset = labelled()
    row = dataset.splits["test"][0]
    assert asking(dataset).technique("plain", 17) is AS_ROWS
    assert AS_ROWS.messages(row, FRAMED) == row.messages


def test_an_instruction_of_the_row_gives_way_to_the_technique() -> None:
    messages = [{"role": "system", "content": "Be rude."}, {"role": "user", "content": "What colour is ice?"}]
    row = Row(number=99, messages=messages, completion="blue")
    asked = asking(labelled()).technique("zero_shot", 17).messages(row, {})
    assert [message["role"] for message in asked] == ["system", "user"]
    assert "rude" not in asked[0]["content"]


def test_earlier_turns_stay_where_answers_are_free_texts() -> None:
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]
    row = Row(number=99, messages=[*turns, {"role": "user", "content": "Say it."}], completion="it")
    asked = asking(free()).technique("zero_shot", 17).messages(row, {})
    assert asked[1:] == row.messages


@pytest.mark.parametrize("name", ["zero_shot", "few_shot", "few_shot_nearest"])
def test_the_labels_are_named_in_the_instruction(name: str) -> None:
    dataset = labelled()
    told = asking(dataset).technique(name, 17).messages(dataset.splits["test"][0], {})[0]
    assert told["role"] == "system"
    assert "blue, green, red" in told["content"]


@pytest.mark.parametrize("name", ASKED)
def test_an_instruction_of_ones_own_takes_the_place_of_ours(name: str) -> None:
    dataset = labelled()
    made = asking(dataset, instruction="Pick from {labels}, quickly.")
    assert made.technique(name, 17).messages(dataset.splits["test"][0], {})[0]["content"] == (
        "Pick from blue, green, red, quickly."
    )


@pytest.mark.parametrize(
    ("dataset", "words"),
    [(free(), "Do what the request asks"), (free(kind="question_answering"), "Answer the question"),
     (free(("7", "12")), "Reply with the final number")],
    ids=["generation", "question_answering", "numbers"],
)  # fmt: skip
def test_the_instruction_fits_the_task(dataset: Dataset, words: str) -> None:
    assert words in asking(dataset).technique("zero_shot", 17).about["system"]


@pytest.mark.parametrize(
    ("dataset", "rule"),
    [(labelled(), {"kind": "label", "labels": list(COLOURS)}), (free(), {"kind": "after", "marker": "Answer:"}),
     (free(("7", "12")), {"kind": "number"})],
    ids=["labels", "texts", "numbers"],
)  # fmt: skip
def test_the_answer_behind_the_steps_is_found_as_the_task_needs_it(dataset: Dataset, rule: dict[str, Any]) -> None:
    made = asking(dataset, n_votes=5)
    chain, votes = made.technique("chain_of_thought", 17), made.technique("self_consistency", 17)
    assert chain.frame.rule == votes.frame.rule == rule
    assert (chain.frame.n_samples, votes.frame.n_samples) == (1, 5)
    assert "step by step" in chain.messages(dataset.splits["test"][0], {})[-1]["content"]
    assert chain.writes_first
    assert not made.technique("few_shot", 17).writes_first


def test_how_the_model_is_asked_is_not_decided_by_test_rows() -> None:
    """Whether answers are numbers was looked up in the rows that everything is measured on."""
    numbers = [(f"Count {i}.", str(i)) for i in range(12)]
    mixed = dataset_of(numbers, test=[("Count it.", "none at all")])
    assert asking(mixed).technique("chain_of_thought", 17).frame.rule == {"kind": "number"}
    assert not asking(mixed).has_numbers()
    assert asking(dataset_of(numbers, test=[("Count it.", "#### 1,200")])).has_numbers()
    assert not asking(dataset_of(numbers, test=numbers, labels=[str(i) for i in range(12)])).has_numbers()


def test_a_question_that_is_held_out_is_never_shown() -> None:
    """Nor is it in other capitals and spaces, or with another answer."""
    train = [("What  COLOUR is the sea?", "green"), ("What colour is a valid row?", "red"), *colours(6)]
    dataset = labelled(train=train, validation=[("What colour is a valid row?", "blue")])
    assert asking(dataset).pool == colours(6)


def test_held_out_questions_are_told_without_their_framing() -> None:
    train = [("What colour is the sea?", "blue"), *colours(6)]
    pool = asking(labelled(train=train), FRAMED).pool
    assert ("the sea", "blue") not in pool
    assert pool[0] == ("x", "blue")


def test_an_example_that_is_very_long_is_not_shown() -> None:
    assert asking(labelled(train=[("x" * 5000, "red"), *colours(3)])).pool == colours(3)


def test_the_seed_draws_the_examples() -> None:
    made = asking(labelled(train=colours(60)), n_examples=6)
    drawn = {seed: made.technique("few_shot", seed).frame.examples for seed in (17, 18)}
    assert drawn[17] == asking(labelled(train=colours(60)), n_examples=6).technique("few_shot", 17).frame.examples
    assert set(drawn[17]) != set(drawn[18])
    assert len(set(drawn[17])) == 6


def test_examples_show_every_label_in_turn() -> None:
    train = [(f"question {i}", "blue") for i in range(50)] + [("a rose", "red"), ("a leaf", "green")]
    for seed in range(10):
        shown = Counter(answer for _, answer in draw(train, 4, seed, balances=True))
        assert shown == {"blue": 2, "red": 1, "green": 1}


def test_free_answers_are_drawn_as_they_come() -> None:
    pairs = [(f"q{i}", f"a{i}") for i in range(10)]
    assert sorted(draw(pairs, 10, 3, balances=False)) == sorted(pairs)


def test_the_nearest_examples_come_with_the_nearest_last() -> None:
    dataset = labelled(test=[(f"What colour is {'y' * 7}?", "red")])
    asked = asking(dataset).technique("few_shot_nearest", 17)
    row = dataset.splits["test"][0]
    shown = [message["content"] for message in asked.messages(row, {}) if message["role"] == "user"]
    assert shown[-2] == f"What colour is {'x' * 7}?"
    assert {*shown[:-2]} == {f"What colour is {'x' * 6}?", f"What colour is {'x' * 8}?"}
    assert (asked.about["pick"], asked.about["k"], asked.about["examples"]) == ("nearest", 3, [])


@pytest.mark.parametrize("name", ["few_shot", "few_shot_nearest"])
def test_too_few_rows_to_show_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="2 training rows may be examples, 3 are wanted") as caught:
        asking(labelled(train=colours(2))).technique(name, 17)
    assert caught.value.field == "n_examples"


def test_passages_stand_before_the_question_as_chat_puts_them_and_only_of_their_row() -> None:
    data = free()
    asked_of = data.splits["test"][0]
    by_question = {"Say it.": [{"text": "Eggs are said."}, {"text": "Stones are not."}]}
    passages = Passages(sha256="5e" * 32, about={"collection": "handbook", "top_k": 2}, by_question=by_question)
    spec = small_spec("generation", collection="handbook")
    found = Asking(spec, data, {}, lengths, passages).technique("retrieval", 1)
    assert [hit["n"] for hit in found.hits(asked_of, {})] == [1, 2]
    assert found.hits(data.splits["train"][0], {}) == []
    told = Asking(small_spec("generation"), data, {}, lengths).technique("zero_shot", 1)
    assert found.messages(asked_of, {}) == told.messages(asked_of, {})
    assert (found.about["technique"], found.about["collection"]) == ("zero_shot", "handbook")
    assert found.about["passages_sha256"] == "5e" * 32


def test_without_passages_retrieval_says_what_is_missing() -> None:
    with pytest.raises(DataError, match="collection handbook were not given"):
        asking(free(), collection="handbook").technique("retrieval", 1)


def test_answers_of_one_conversation_have_passages_and_examples_of_their_own() -> None:
    """Every one of them has the conversation's row number."""
    data = free()
    asked = ([{"role": "user", "content": text}] for text in ("Hm?", "Say 11."))
    rows = [Row(number=99, messages=messages, completion="an egg") for messages in asked]
    data = replace(data, splits={**data.splits, "test": rows})
    passages = Passages(by_question={"Hm?": [{"text": "One."}], "Say 11.": [{"text": "Two."}]})
    made = Asking(small_spec("generation", collection="handbook"), data, {}, lengths, passages)
    sourced, nearest = made.technique("retrieval", 1), made.technique("few_shot_nearest", 1)
    assert [sourced.hits(row, {})[0]["text"] for row in rows] == ["One.", "Two."]
    first, second = (nearest.messages(row, {})[1:-1] for row in rows)
    assert first and second and first != second
