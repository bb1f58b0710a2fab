"""One answered row, and whether an answer says what was expected: labels read out of a text, numbers out of another.

Pure text. A label is read when the whole answer, or its first line, is one after normalization; nothing is guessed from
a text that merely contains one. Numbers are read as GSM8K does (Cobbe et al. 2021, arXiv 2110.14168): what follows
`####`, else the last number of the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from ml.evaluate.metrics import exact_match, normalized, token_f1

_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
NO_LABEL = ""
"""What is read out of an answer that is no label."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A row with what the subject said."""

    row: int
    """Its number in the person's own file."""
    expected: str
    got: str
    """The answer as it counts: a label, or a text after its steps were left out."""
    scores: tuple[float, ...] = ()
    """Log probability of each label."""
    nll: float | None = None
    """Negative log likelihood of the expected answer, all its tokens together, in nats."""
    n_tokens: int = 0
    """Tokens of the expected answer."""
    answers: tuple[str, ...] = ()
    """Every answer that counts as right, the expected one first; empty where it is the only one."""

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Answered:
        return cls(
            row=int(given["row"]), expected=given["expected"], got=given["got"],
            scores=tuple(given.get("scores") or ()), nll=given.get("nll"), n_tokens=int(given.get("n_tokens") or 0),
            answers=tuple(given.get("answers") or ()),
        )  # fmt: skip

    @cached_property
    def wanted(self) -> str:
        """What the answer is compared with: of all that count as right, the one with most words in common."""
        return nearest(self.answers or (self.expected,), self.got)


def nearest(answers: Sequence[str], got: str) -> str:
    """Of several right answers the one that `got` is, or has most words in common with; the first of equals."""
    if len(answers) == 1:
        return answers[0]
    return max(answers, key=lambda answer: (exact_match(answer, got), token_f1(answer, got)))


def kept_answers(answers: Sequence[str]) -> dict[str, list[str]]:
    """Of a row's line in the results: its right answers, where there are several."""
    return {"answers": list(answers)} if len(answers) > 1 else {}


def label_in(text: str, labels: Sequence[str]) -> str:
    """The label that the answer is, or NO_LABEL. Labels that differ in case only are told apart by their case."""
    lines = text.strip().splitlines()
    for candidate in (text.strip(), lines[0].strip() if lines else ""):
        if candidate in labels:
            return candidate
        for label in labels:
            if candidate and normalized(candidate) == normalized(label):
                return label
    return NO_LABEL


def number_in(text: str) -> Decimal | None:
    """The number that the text ends with; None when it has none."""
    found = _NUMBER.findall(text.rpartition("####")[2]) or _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None


def same_number(expected: str, got: str) -> bool:
    wanted = number_in(expected)
    return wanted is not None and wanted == number_in(got)


def is_right(answered: Answered, metric: str) -> bool:
    """Whether a row counts as right; `metric` is the evaluation's main one."""
    if metric in ("accuracy", "macro_f1", "ece"):
        return answered.got == answered.expected
    if metric == "numeric":
        return is_right_number(answered)
    return exact_match(answered.wanted, answered.got)


def is_right_number(answered: Answered) -> bool:
    return any(same_number(answer, answered.got) for answer in answered.answers or (answered.expected,))
