"""The prompt that retrieved chunks go into, and answers without their numbers."""

from __future__ import annotations

from typing import Any

import pytest

from ml.retrieval import sources


def _hit(n: int, text: str) -> dict[str, Any]:
    return {"n": n, "title": f"{n}.md", "text": text}


def test_sources_are_numbered_in_front_of_the_last_question() -> None:
    messages = [
        {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Whose tree is it?"},
    ]  # fmt: skip
    given = sources.sources_prompt(messages, [_hit(1, "Of both."), _hit(2, "No.")])
    assert [message["role"] for message in given] == ["system", "user", "assistant", "user"]
    assert given[0]["content"] == sources.INSTRUCTION
    assert given[1]["content"] == "Hello?"
    last = given[-1]["content"]
    assert last.index("Whose tree") < last.index("Of both [1].") < last.index("No. [2]") < last.rindex("Whose tree")
    assert messages[-1]["content"] == "Whose tree is it?"


def test_sentences_of_a_source_carry_its_number_and_abbreviations_do_not() -> None:
    text = "## Rule\n\nMr. Pruitt owned a half. Whose was the rest?\nNo. 7 says more"
    given = sources.sources_prompt([{"role": "user", "content": "Q"}], [_hit(3, text)])
    wanted = "Question: Q\n\nMr. Pruitt owned a half [3]. Whose was the rest?\nNo. 7 says more\n\nQuestion: Q\n"
    assert given[-1]["content"].startswith(wanted)


def test_the_callers_system_message_stays_in_front() -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]
    given = sources.sources_prompt(messages, [_hit(1, "You.")])
    assert given[0]["content"].startswith("Be kind.")
    assert len(given) == 2


def test_only_the_best_sources_that_fit_the_budget_go_in() -> None:
    hits = [_hit(1, "short"), _hit(2, "long " * 500), _hit(3, "short")]
    assert sources.fit_sources(hits, budget_tokens=100, count=len) == hits[:1]
    assert sources.fit_sources(hits, budget_tokens=10_000, count=len) == hits


def test_without_sources_the_messages_stay_as_they_are() -> None:
    messages = [{"role": "user", "content": "Q"}]
    assert sources.sources_prompt(messages, []) == messages


def test_a_long_question_leaves_less_room_as_it_stands_in_the_prompt_twice() -> None:
    def budget(question: str) -> int:
        return sources.sources_budget(1000, n_prompt=300, question=question, count=len)

    assert budget("x" * 100) == 600 - sources.OVERHEAD_TOKENS
    assert budget("x" * 2000) == 0


@pytest.mark.parametrize(
    ("text", "plain"),
    [("Of both [1].", "Of both."), ("Of both [1][2] and [3, 4] no.", "Of both and no."), ("In [1999]", "In [1999]")],
)  # fmt: skip
def test_an_answer_is_compared_without_its_markers(text: str, plain: str) -> None:
    assert sources.without_markers(text) == plain
