"""Events of a vLLM server are read strictly: several tokens at once, and nothing that does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from ml.errors import UnavailableError
from ml.vllm.pieces import Piece, piece_of


def event(**choice: Any) -> dict[str, Any]:
    return {"id": "cmpl-1", "choices": [{"index": 0, "text": "", "finish_reason": None, **choice}]}


def test_tokens_that_come_together_keep_their_order_and_log_probabilities() -> None:
    """A busy server sends several tokens in one event; the chosen one may stand anywhere among the likeliest."""
    logprobs = {
        "tokens": ["token_id:5", "token_id:7"], "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"token_id:5": -0.5, "token_id:9": -1.0}, {"token_id:7": -2.0, "token_id:1": -0.1}],
    }  # fmt: skip
    piece = piece_of(event(text="ab", token_ids=[5, 7], logprobs=logprobs, finish_reason="length"))
    assert piece.ids == (5, 7) and piece.finish_reason == "length"
    assert piece.logprobs == ([(5, -0.5), (5, -0.5), (9, -1.0)], [(7, -2.0), (1, -0.1), (7, -2.0)])


def test_an_event_may_bring_no_token() -> None:
    """The end by a stop token that is not told, and the trailing event with the usage."""
    assert piece_of(event(finish_reason="stop", token_ids=[])) == Piece(finish_reason="stop")
    assert piece_of({"choices": [], "usage": {"prompt_tokens": 3}}) == Piece()


@pytest.mark.parametrize(
    "given",
    [
        {}, [], None, "text", {"choices": None}, {"choices": [None]}, {"choices": [7]},
        event(text="a"), event(token_ids="12"), event(token_ids=[1.5]), event(token_ids=[True]), event(token_ids=[-1]),
        event(token_ids=[1], logprobs={"top_logprobs": [], "token_logprobs": []}),
        event(token_ids=[1], logprobs={"top_logprobs": [{"a": 1}], "token_logprobs": [0.0]}),
        event(token_ids=[1], logprobs={"top_logprobs": [{}], "token_logprobs": [float("nan")]}),
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused(given: Any) -> None:
    with pytest.raises(UnavailableError, match="cannot be read"):
        piece_of(given)
