"""Texts for models without a chat: what stands around them, what is cut, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ml.data.plain_text import around, encode_labelled, encode_pairs, labelled_text, plain_text, text_ids, text_pair
from ml.data.rows import Row
from ml.errors import DataError
from tests.ml.tiny import tiny_tokenizer, tiny_tokenizer_for

ASK = [{"role": "system", "content": "Answer with the colour."}, {"role": "user", "content": "The sky?"}]
LONG = [{"role": "user", "content": "very " * 60 + "blue"}]


def row(completion: str, messages: Any = ASK, number: int = 41) -> Row:
    return Row(number=number, messages=messages, completion=completion)


def test_messages_are_one_text_with_blank_lines_between() -> None:
    turns = [*ASK, {"role": "assistant", "content": "Blue."}, {"role": "user", "content": "The sea?"}]
    assert plain_text(turns) == "Answer with the colour.\n\nThe sky?\n\nBlue.\n\nThe sea?"
    assert plain_text([{"role": "system", "content": " "}, *ASK[1:]]) == "The sky?"


@pytest.mark.parametrize(
    ("shape", "text", "answer"),
    [
        ("bert", "[CLS]Answer with the colour.\n\nThe sky?[SEP]", None),
        ("t5", "Answer with the colour.\n\nThe sky?</s>", "blue</s>"),
        ("bart", "<s>Answer with the colour.\n\nThe sky?</s>", "<s>blue</s>"),
    ],
)
def test_the_tokenizers_own_special_tokens_stand_around(shape: str, text: str, answer: str | None) -> None:
    tokenizer = tiny_tokenizer_for(shape)
    if answer is None:
        assert tokenizer.decode(labelled_text(tokenizer, ASK, 0, 64).ids) == text
        return
    pair = text_pair(tokenizer, ASK, "blue", 64)
    assert (tokenizer.decode(pair.ids), tokenizer.decode(pair.target)) == (text, answer)
    assert (pair.n_cut, pair.n_targets, pair.n_tokens) == (0, len(pair.target), len(pair.ids) + len(pair.target))


def test_an_answer_ends_in_the_end_of_sequence_even_where_the_tokenizer_adds_nothing() -> None:
    tokenizer = tiny_tokenizer()
    assert text_pair(tokenizer, ASK, "blue", 64).target[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("shape", ["bert", "t5", "bart"])
def test_a_long_text_loses_its_start_and_keeps_its_special_tokens(shape: str) -> None:
    tokenizer = tiny_tokenizer_for(shape)
    whole, _ = text_ids(tokenizer, LONG)
    cut, n_cut = text_ids(tokenizer, LONG, 20)
    before, after = around(tokenizer)
    assert (len(cut), n_cut) == (20, len(whole) - 20)
    assert tuple(cut[: len(before)]) == before
    assert cut[len(before) :] == whole[-20 + len(before) :]
    assert tuple(cut[len(cut) - len(after) :]) == after


def test_a_long_answer_loses_its_end_and_leaves_the_text_a_quarter() -> None:
    tokenizer = tiny_tokenizer_for("bart")
    whole = text_pair(tokenizer, LONG, "blue " * 60, 10_000)
    pair = text_pair(tokenizer, LONG, "blue " * 60, 40)
    assert (len(pair.ids), len(pair.target)) == (10, 30)
    assert pair.target == [*whole.target[:29], tokenizer.eos_token_id]
    assert pair.n_cut == whole.n_tokens - pair.n_tokens


def test_a_short_text_leaves_the_rest_to_the_answer() -> None:
    pair = text_pair(tiny_tokenizer_for("t5"), ASK[1:], "blue " * 60, 40)
    assert pair.n_tokens == 40
    assert pair.n_cut > 0


def test_an_answer_that_spells_the_end_of_sequence_has_one_end() -> None:
    tokenizer = tiny_tokenizer_for("t5")
    assert text_pair(tokenizer, ASK, "</s>", 64).target.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("answer", ["", " \n"])
def test_an_answer_without_text_is_named_by_its_row(answer: str) -> None:
    tokenizer = tiny_tokenizer_for("t5")
    with pytest.raises(DataError, match="Row 41: The answer is empty"):
        encode_pairs([row("blue", number=40), row(answer)], tokenizer, 64)


def test_an_answer_that_no_token_is_left_of_is_named_by_its_row() -> None:
    with pytest.raises(DataError, match="Row 41: No token of the answer is left") as caught:
        encode_pairs([row("blue", LONG)], tiny_tokenizer_for("bart"), 5)
    assert caught.value.field == "max_length"


@pytest.mark.parametrize("shape", ["bert", "t5", "bart"])
def test_text_that_spells_special_tokens_is_only_text(shape: str) -> None:
    tokenizer = tiny_tokenizer_for(shape)
    honest, _ = text_ids(tokenizer, [{"role": "user", "content": "x"}])
    text = "x" + "".join(tokenizer.all_special_tokens)
    forged, _ = text_ids(tokenizer, [{"role": "user", "content": text}])
    for special in tokenizer.all_special_ids:
        assert forged.count(special) == honest.count(special)


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(DataError, match="The text is empty"):
        labelled_text(tiny_tokenizer_for("bert"), [{"role": "user", "content": ""}], 0, 64)


def test_rows_of_an_encoder_carry_the_number_of_their_label() -> None:
    items = encode_labelled([row("red"), row("blue")], tiny_tokenizer_for("bert"), ["blue", "red"], 64)
    assert [item.label for item in items] == [1, 0]
    assert [item.n_targets for item in items] == [1, 1]


def test_an_unknown_label_is_named_by_its_row() -> None:
    with pytest.raises(DataError, match="Row 41: 'mauve' is not among the labels"):
        encode_labelled([row("mauve")], tiny_tokenizer_for("bert"), ["blue", "red"], 64)
