"""How a study asks the untouched model: the frames of its prompting techniques, and the examples they show.

Chain of thought is Kojima et al. 2022 (arXiv 2205.11916): a sentence that asks for steps, and an answer found behind
them; self-consistency is Wang et al. 2022 (arXiv 2203.11171): sampled chains vote. Few-shot examples are training rows
whose question stands in no held-out split, drawn by the seed, of each label in turn; the nearest ones are chosen by
sentence embeddings (Liu et al. 2021, arXiv 2101.06804), the nearest last. Passages of a collection are given
(ml.study.passages). Everything is built by `ml.specs.prompting` and `ml.retrieval.sources`, as chat and API build it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.data.rows import Dataset, Row
from ml.errors import DataError
from ml.specs.measures import has_number
from ml.specs.prompting import LABELS, QUESTION, Frame, Pair
from ml.specs.questions import question_of
from ml.specs.study import StudySpec
from ml.study.passages import Passages

MOST_POOLED = 20_000
LONGEST_EXAMPLE = 4_000
VOTE_TEMPERATURE = 0.7
MARKER = "Answer:"
_SLOT = f"{{{QUESTION}}}"
_STEPS = 'Let\'s think step by step, and then write "Answer:" followed by the answer alone.'
_TOLD = {
    "classification": "Say which label fits the text. Reply with one of these labels and nothing else: {labels}.",
    "question_answering": "Answer the question as shortly as possible. Reply with the answer and nothing else.",
    "numbers": "Solve the problem. Reply with the final number and nothing else.",
    "": "Do what the request asks for. Reply with the result and nothing else.",
}
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to vectors of length one [n, D]."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One technique made ready for the rows of a data set."""

    frame: Frame
    as_rows: bool = False
    """The rows are asked as they are; the frame is empty."""
    examples: Mapping[str, tuple[Pair, ...]]
    """By question, where each has its own."""
    passages: Passages | None = None
    """What stands in front of each row's question, as far as there is room for it."""
    about: dict[str, Any]
    """For the report and for a prompt of the library: technique, system, template, pick, k, examples, rule …"""

    @property
    def writes_first(self) -> bool:
        """Whether the answer has to be found behind steps, so that labels cannot be scored."""
        return bool(self.frame.rule)

    def messages(self, row: Row, mapping: Mapping[str, Any]) -> list[dict[str, str]]:
        """The row without passages."""
        if self.as_rows:
            return row.messages
        turns = [message for message in row.messages if message["role"] != "system"]
        question = _question(row, mapping)
        asked = {"role": "user", "content": question}
        return self.frame.fold([*turns[:-1], asked], self.examples.get(question, ()))

    def hits(self, row: Row, mapping: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The passages of the row, numbered from 1."""
        return self.passages.of(_question(row, mapping)) if self.passages else []


AS_ROWS = Asked(
    frame=Frame(), as_rows=True, examples={}, about={"technique": "plain", "system": "", "template": "", "examples": []}
)


class Asking:
    """Makes the techniques of one study."""

    def __init__(
        self, spec: StudySpec, dataset: Dataset, mapping: Mapping[str, Any], embed: Embed,
        passages: Passages | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.dataset, self.mapping, self.embed, self.passages = spec, dataset, mapping, embed, passages
        self._pool: list[Pair] | None = None

    def with_rows(self, dataset: Dataset) -> Asking:
        """The same on other rows."""
        return Asking(self.spec, dataset, self.mapping, self.embed, self.passages)

    def technique(self, name: str, seed: int) -> Asked:
        """Raises DataError when there are too few training rows to show, or no passages."""
        if name == "plain":
            return AS_ROWS
        builders: dict[str, Callable[[], Asked]] = {
            "zero_shot": lambda: self._asked(self._told(), technique="zero_shot"),
            "few_shot": lambda: self._drawn(seed),
            "few_shot_nearest": self._nearest,
            "retrieval": self._sourced,
            "chain_of_thought": lambda: self._reasoned(1),
            "self_consistency": lambda: self._reasoned(self.spec.n_votes),
        }
        return builders[name]()

    def has_numbers(self) -> bool:
        """Whether every expected answer of the test rows is a number or ends in one."""
        rows = self.dataset.splits["test"]
        return self.dataset.task != "classification" and all(has_number(row.completion) for row in rows)

    def _wants_numbers(self) -> bool:
        """The same of the training rows: how the model is asked is not decided by test rows."""
        rows = self.dataset.splits["train"][:MOST_POOLED]
        return self.dataset.task != "classification" and all(has_number(row.completion) for row in rows)

    def _told(self) -> str:
        kind = "numbers" if self._wants_numbers() else self.dataset.kind or self.dataset.task
        return self.spec.instruction or _TOLD.get(kind, _TOLD[""])

    def _asked(
        self, system: str, template: str = _SLOT, *, technique: str, examples: Sequence[Pair] = (),
        rule: Mapping[str, Any] | None = None, n_samples: int = 1,
        each: Mapping[str, tuple[Pair, ...]] | None = None, **about: Any,
    ) -> Asked:  # fmt: skip
        labels, found = self.dataset.labels, dict(rule or {})
        frame = Frame(
            system=system, template=template, fields=(QUESTION,), examples=tuple(examples), rule=found,
            constants={LABELS: ", ".join(labels)} if labels else {}, takes_history=not labels, n_samples=n_samples,
            sample_temperature=VOTE_TEMPERATURE,
        )  # fmt: skip
        shown = [{"question": question, "answer": answer} for question, answer in examples]
        whole = {"technique": technique, "pick": "fixed", "k": 0, "system": system, "template": template,
                 "fields": [QUESTION], "examples": shown, "rule": found, "n_samples": n_samples,
                 "sample_temperature": VOTE_TEMPERATURE, **about}  # fmt: skip
        return Asked(frame=frame, examples=each or {}, about=whole)

    def _drawn(self, seed: int) -> Asked:
        pairs = draw(self.pool, self.spec.n_examples, seed, balances=bool(self.dataset.labels))
        return self._asked(self._told(), technique="few_shot", examples=pairs)

    def _nearest(self) -> Asked:
        k, rows = self.spec.n_examples, self.dataset.splits["test"]
        check_pool(self.pool, k)
        known = self.embed([question for question, _ in self.pool])  # [n, D]
        questions = [_question(row, self.mapping) for row in rows]
        asked = self.embed(questions)  # [B, D]
        best = np.argsort(-(asked @ known.T), axis=1, kind="stable")[:, :k][:, ::-1]
        each = {question: tuple(self.pool[i] for i in places) for question, places in zip(questions, best, strict=True)}
        return self._asked(self._told(), technique="few_shot", each=each, pick="nearest", k=k)

    def _sourced(self) -> Asked:
        if self.passages is None:
            raise DataError(f"The passages of the collection {self.spec.collection} were not given.",
                            hint="Was the collection deleted? Begin a study with another one.")  # fmt: skip
        about = {**self.passages.about, "passages_sha256": self.passages.sha256}
        return replace(self._asked(self._told(), technique="zero_shot", **about), passages=self.passages)

    def _reasoned(self, n_samples: int) -> Asked:
        labels = self.dataset.labels
        rule: dict[str, Any] = {"kind": "after", "marker": MARKER}
        if labels:
            rule = {"kind": "label", "labels": list(labels)}
        elif self._wants_numbers():
            rule = {"kind": "number"}
        told = self.spec.instruction or ("Say which of these labels fits the text: {labels}." if labels else "")
        return self._asked(told, f"{_SLOT}\n\n{_STEPS}", technique="chain_of_thought", rule=rule, n_samples=n_samples)

    @property
    def pool(self) -> list[Pair]:
        """The training rows that may be examples: question and answer."""
        if self._pool is None:
            splits = self.dataset.splits
            held_out = {_same(_question(row, self.mapping)) for s in ("validation", "test") for row in splits[s]}
            pairs = [(_question(row, self.mapping), row.completion) for row in splits["train"][:MOST_POOLED]]
            self._pool = [
                (question, answer) for question, answer in pairs
                if _same(question) not in held_out and len(question) + len(answer) <= LONGEST_EXAMPLE
            ]  # fmt: skip
        return self._pool


def _question(row: Row, mapping: Mapping[str, Any]) -> str:
    return question_of(mapping, row.messages[-1]["content"])


def _same(text: str) -> str:
    return " ".join(text.casefold().split())


def check_pool(pool: Sequence[Pair], k: int) -> None:
    if len(pool) < k:
        raise DataError(f"{len(pool)} training rows may be examples, {k} are wanted.", field="n_examples",
                        hint="Ask for fewer; rows that also stand in validation or test are never shown.")  # fmt: skip


def draw(pool: Sequence[Pair], k: int, seed: int, *, balances: bool) -> list[Pair]:
    """k pairs in an order that the seed fixes; with `balances` of each answer in turn. Raises DataError."""
    check_pool(pool, k)
    generator = random.Random(seed)  # noqa: S311 - a sample, no secret
    if not balances:
        return generator.sample(list(pool), k)
    by_answer: dict[str, list[Pair]] = {}
    for pair in pool:
        by_answer.setdefault(pair[1], []).append(pair)
    groups = list(by_answer.values())
    generator.shuffle(groups)
    for group in groups:
        generator.shuffle(group)
    turns = [pair for n in range(max(map(len, groups))) for group in groups for pair in group[n : n + 1]]
    chosen = turns[:k]
    generator.shuffle(chosen)
    return chosen
