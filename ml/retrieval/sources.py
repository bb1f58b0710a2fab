"""Retrieved chunks as numbered sources in a prompt, and an answer without their numbers. Pure.

Chat, API, evaluations and studies put sources into prompts with this, so that what is measured is what is served. A hit
is a mapping with at least `n`, its number from 1, and `text`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

INSTRUCTION = "You answer from sources. Cite them like [1]."
REMINDER = "Answer in one sentence and cite the source."
_HEADING = re.compile(r"#{1,6}\s")
_SENTENCE_END = re.compile(r"(?<=\w{4})([.!])(?=\s|$)")
"""Not of questions: a small model takes a marked question for an answer. Four letters spare most abbreviations."""
OVERHEAD_TOKENS = 96
"""Of the instruction, the reminder and what the chat template puts around them."""
_MARKER = re.compile(r"\s*\[\d{1,3}(?:\s*[,;]\s*\d{1,3})*\]")


Count = Callable[[str], int]
"""Tokens of a text."""


def counter(tokenizer: Any) -> Count:
    """What an engine and a study count with."""
    return lambda text: len(tokenizer.tokenize(text))


def sources_budget(room: int, *, n_prompt: int, question: str, count: Count) -> int:
    """Tokens that sources may have together, at least 0: what a prompt of `n_prompt` leaves of `room`, its question
    standing in it a second time."""
    return max(0, room - n_prompt - count(question) - OVERHEAD_TOKENS)


def fit_sources(hits: Sequence[dict[str, Any]], *, budget_tokens: int, count: Count) -> list[dict[str, Any]]:
    """The best hits that fit the budget together, numbers unchanged."""
    kept, left = [], budget_tokens
    for hit in hits:
        left -= count(_source(hit))
        if left < 0:
            break
        kept.append(hit)
    return kept


def _source(hit: dict[str, Any]) -> str:
    return f"{_marked(hit['text'], hit['n'])}\n\n"


def _marked(text: str, n: int) -> str:
    """A chunk with its number at the end of its sentences, without headings, blanks collapsed.

    Small models cite by copying: told to cite plain sources, SmolLM2-135M wrote no marker; with a numbered title above
    each it wrote lists of titles; with sentences marked like this, and nothing else, it copies sentence and marker.
    """
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not _HEADING.match(line.strip())]
    marked = "\n".join(_SENTENCE_END.sub(rf" [{n}]\1", line) for line in lines)
    return marked if f"[{n}]" in marked else f"{marked} [{n}]".strip()


def sources_prompt(messages: Sequence[dict[str, str]], hits: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """`messages` with the numbered sources in front of the last question and a plain instruction as system message.

    The question stands before the sources too: of the orders tried by hand on the demo's opinions, this is the one in
    which SmolLM2-135M went astray least.

    A system message of the caller's stays, ours after it. Sources are data: they stand in the user's turn, never in the
    system's. Without hits the messages come back as they are: the answer is then the refusal, not the model's.
    """
    given = [dict(message) for message in messages]
    if not hits or not given:
        return given
    if given[0]["role"] == "system":
        given[0]["content"] = f"{given[0]['content']}\n\n{INSTRUCTION}"
    else:
        given.insert(0, {"role": "system", "content": INSTRUCTION})
    last = max(i for i, message in enumerate(given) if message["role"] == "user")
    sources = "".join(_source(hit) for hit in hits)
    question = f"Question: {given[last]['content']}"
    given[last]["content"] = f"{question}\n\n{sources}{question}\n{REMINDER}"
    return given


def without_markers(text: str) -> str:
    """An answer without the numbers of its sources: what is compared with an expected answer, which has none."""
    return _MARKER.sub("", text)
