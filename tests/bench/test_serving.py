"""The serving bench: what it reads out of a stream, and the figures it forms."""

from __future__ import annotations

import pytest

from bench.serving import Answer, Round, figures, take


def answers(*firsts: float, text: str = "yes", is_whole: bool = True) -> list[Answer]:
    return [Answer(first_s=first, text=text, n_tokens=10, is_whole=is_whole) for first in firsts]


def test_a_stream_is_its_pieces_and_the_first_piece_with_text_counts():
    answer = Answer()
    for chunk, at in (
        ({"choices": [{"delta": {"role": "assistant"}}]}, 0.1),
        ({"choices": [{"delta": {"content": "Hel"}}]}, 0.4),
        ({"choices": [{"delta": {"content": "lo"}}]}, 0.6),
        ({"choices": [], "usage": {"completion_tokens": 2}}, 0.7),
    ):
        take(answer, chunk, at)
    assert answer == Answer(first_s=0.4, text="Hello", n_tokens=2)


def test_an_error_in_a_stream_ends_the_bench():
    with pytest.raises(SystemExit, match="too long"):
        take(Answer(), {"error": {"message": "too long"}}, 0.1)


def test_figures_are_medians_of_ratios_within_a_repetition():
    pairs = [
        (Round(seconds=product, answers=answers(0.3, 0.5)), Round(seconds=bare, answers=answers(0.2, 0.3)))
        for product, bare in ((2.0, 1.0), (4.0, 3.0), (8.0, 7.2))
    ]
    found = figures(pairs)
    assert found["ratio"] == 0.75 and found["dropped"] == 0 and found["streams"] == 6
    assert found["added_first_token_p95_ms"] == pytest.approx(200)


@pytest.mark.parametrize("theirs", [answers(0.1, is_whole=False), answers(0.1, text="ye")])
def test_a_stream_without_its_end_or_with_another_text_is_dropped(theirs):
    pair = Round(seconds=1.0, answers=theirs), Round(seconds=1.0, answers=answers(0.1))
    assert figures([pair])["dropped"] == 1
