"""Text while it comes: whole characters, no stop strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.engine.text import TextStream, token_bytes
from tests.ml.conftest import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def pieces_of(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(TOKENIZER, stop)
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return [*(stream.push(i) for i in ids), stream.finish()], stream


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_pieces_joined_are_the_text_and_no_piece_ends_in_half_a_character(text):
    pieces, stream = pieces_of(text)
    assert "".join(pieces) == stream.text == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_an_emoji_of_four_bytes_comes_in_one_piece():
    pieces, _ = pieces_of("a🌱b")
    assert "🌱" in pieces


def test_bytes_that_are_no_character_are_given_out_in_the_end():
    stream = TextStream(TOKENIZER)
    half = TOKENIZER("🌱", add_special_tokens=False)["input_ids"][:2]
    assert [stream.push(i) for i in half] == ["", ""]
    assert stream.finish() == "\ufffd" and stream.text == "\ufffd"


def test_bytes_that_are_no_character_do_not_hold_back_what_follows_for_ever():
    stream = TextStream(TOKENIZER)
    byte = TOKENIZER("🌱", add_special_tokens=False)["input_ids"][0]
    given = [stream.push(byte) for _ in range(40)]
    assert "".join(given).count("\ufffd") > 20


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_piece_holds_any_part_of_a_stop_string_and_nothing_before_it_is_lost(text, stop):
    pieces, stream = pieces_of(text, tuple(stop))
    found = [at for s in stop if (at := text.find(s)) >= 0]
    if stream.is_stopped:
        given = "".join(pieces)
        assert text.startswith(given) and not any(s in given for s in stop)
        assert any(text[len(given) :].startswith(s) for s in stop)
    else:
        assert not found and "".join(pieces) == text


@pytest.mark.parametrize("text", ["one END two", "one EN", "one E", "ENEND", "EENDD"])
def test_a_stop_string_across_tokens_never_shows(text):
    pieces, stream = pieces_of(text, ("END",))
    assert "".join(pieces) == text.split("END")[0] and stream.is_stopped == ("END" in text)


def test_control_tokens_do_not_show():
    stream = TextStream(TOKENIZER)
    assert stream.push(TOKENIZER.convert_tokens_to_ids("<|im_start|>")) == ""
    assert stream.finish() == ""


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_bytes_of_the_tokens_joined_are_those_of_the_text(text):
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert b"".join(token_bytes(TOKENIZER, i) for i in ids) == text.encode()
