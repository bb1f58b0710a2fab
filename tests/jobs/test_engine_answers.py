"""The end of an answer: a source that it names none of is put behind it, unless it was stopped."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.engine_answers import Answers, done_data
from jobs.engine_ticket import Ticket, Tickets
from jobs.stream import GenerateRequest, new_id
from ml.engine.types import Done, FinishReason, Label

SOURCES = [{"n": 2, "text": "A tree upon the boundary line belongs to both neighbours in common."}]


class Closer:
    def __init__(self) -> None:
        self.closed: list[tuple[str, str]] = []
        self.events: list[dict[str, Any]] = []

    def finish(self, ticket: Ticket, *, text: str, event: dict[str, Any], tail: str = "") -> None:
        self.closed.append((text, tail))
        self.events.append(event)


def closer_of(
    text: str, *, reason: FinishReason = "stop", sources: list[dict[str, Any]] | None, labels: tuple[Label, ...] = (),
    scores: tuple[float, ...] = (), choices: tuple[str, ...] = (),
) -> Closer:  # fmt: skip
    """What closes an answer whose last word was not sent yet."""
    request = GenerateRequest(id=new_id(), team_id=1, base="base", messages=[{"role": "user", "content": "Whose?"}],
                              choices=list(choices))  # fmt: skip
    tickets, closer = Tickets(), Closer()
    ends_ms = int(time.time() * 1000) + 60_000
    tickets.add(Ticket(request=request, entry_id="1-1", ends_ms=ends_ms, sources=sources))
    answers = Answers(cast(Any, None), "e", tickets, cast(Any, None), cast(Any, closer), labels={})
    answers.handle(
        [
            Done(
                id=request.id, finish_reason=reason, text=text, tail="" if choices else text.split()[-1],
                prompt_tokens=1, completion_tokens=1, first_step=1, last_step=1, first_token_ms=1.0, tokens_per_s=1.0,
                labels=labels, scores=scores, n_scored=tuple(2 for _ in scores),
            )
        ]
    )  # fmt: skip
    return closer


@pytest.mark.parametrize(
    ("text", "reason", "sources", "added"),
    [
        ("It belongs to both neighbours.", "stop", SOURCES, " [2]"),
        ("It belongs to both neighbours [2].", "stop", SOURCES, ""),
        ("It belongs to both neighbours.", "cancelled", SOURCES, ""),
        ("It belongs to both neighbours.", "stop", None, ""),
    ],
)
def test_an_answer_ends_with_its_source(
    text: str, reason: FinishReason, sources: list[dict[str, Any]] | None, added: str
) -> None:
    closer = closer_of(text, reason=reason, sources=sources)
    assert closer.closed == [(text + added, text.split()[-1] + added)]


def test_a_label_ends_as_it_is_with_the_probabilities_of_all_labels() -> None:
    labels = (Label(label="both neighbours", probability=0.75), Label(label="nobody", probability=0.25))
    closer = closer_of("both neighbours", sources=SOURCES, labels=labels)
    assert closer.closed == [("both neighbours", "neighbours")]
    assert closer.events[0]["labels"] == (
        {"label": "both neighbours", "probability": 0.75}, {"label": "nobody", "probability": 0.25}
    )  # fmt: skip


def test_the_likeliest_choice_is_the_answer_and_all_scores_go_along() -> None:
    closer = closer_of("", sources=None, scores=(-3.0, -0.5), choices=("nobody", "both"))
    assert closer.closed == [("both", "both")]
    assert closer.events[0]["scores"] == (-3.0, -0.5) and closer.events[0]["n_scored"] == (2, 2)
    assert "scores" not in closer_of("It is so.", sources=None).events[0]


def test_a_head_asked_to_choose_says_its_label_once() -> None:
    """Its label was sent as a token: sent again at the end, it would stand there twice."""
    labels = (Label(label="both", probability=0.75),)
    closer = closer_of("both", sources=None, labels=labels, scores=(-9.0, -0.3), choices=("nobody", "both"))
    assert closer.closed == [("both", "")]


def test_an_answer_without_labels_says_nothing_of_them() -> None:
    assert "labels" not in done_data(finish_reason="stop", labels=())


def test_a_cancellation_is_kept_with_its_request_and_leaves_nothing_when_that_has_ended() -> None:
    """The ids of requests that were cancelled around their end stayed in a set for as long as the engine ran."""
    tickets, rows = Tickets(), []
    answers = Answers(
        cast(Any, SimpleNamespace(cancel=rows.append)), "e", tickets, cast(Any, None), cast(Any, Closer()), labels={}
    )
    ticket = Ticket(request=GenerateRequest(id="a", team_id=1, base="base", text="x"), entry_id="1-1", ends_ms=0)
    tickets.add(ticket)
    answers.cancel("a")
    assert ticket.is_cancelled and rows == ["a"]
    tickets.remove("a")
    answers.cancel("a")
    assert not [name for name, value in vars(answers).items() if isinstance(value, dict | set | list) and value]
