"""Every test row answered: by the engine, as it is served, or by the objective for models that no engine serves.

One line a row, in the rows' order, as an evaluation keeps them. Labels are scored; free answers are written greedily;
chains of thought are written and their answer is found behind them. Rows of one call share the engine's batch. The same
rows, model and spec give the same answers on the same machine. A row that cannot be asked (too long) counts as wrong
and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ml.artifact import artifact_id
from ml.backbone import Backbone
from ml.data.chat import completion_ids, prompt_ids
from ml.data.rows import Dataset, Row
from ml.engine.cache import heads_of
from ml.engine.engine import Engine
from ml.engine.types import Done, Event, Failed, Request, Sampling, Started
from ml.errors import ColdframeError
from ml.evaluate.answers import kept_answers, label_in
from ml.objectives import Objective
from ml.retrieval.sources import counter, fit_sources, sources_budget, sources_prompt, without_markers
from ml.specs.voting import extract, vote
from ml.study.asking import Asked

N_SLOTS, PREFILL_TOKENS = 16, 512
MOST_POSITIONS = N_SLOTS * 2048
"""Of all slots together: longer ones are fewer."""
TEAM = 1
MOST_TEXT = 20_000
Check = Callable[[], None]
"""Called between steps; may raise."""
Progress = Callable[[int, int], None]
"""Rows done, rows in all."""


@dataclass(kw_only=True)
class _Asking:
    """One row under way: one request, or several that vote."""

    row: Row
    place: int
    requests: list[Request] = field(default_factory=list)
    done: dict[str, Done] = field(default_factory=dict)
    started: Started | None = None
    error: ColdframeError | None = None

    @property
    def is_over(self) -> bool:
        return self.error is not None or len(self.done) == len(self.requests)


class Measuring:
    """The engine of a study, and what is asked of it."""

    def __init__(
        self, backbone: Backbone, dataset: Dataset, mapping: Mapping[str, Any], *, length: int, max_tokens: int
    ) -> None:
        """`length`: positions of a slot, prompt and answer together; `max_tokens`: of a written answer."""
        self.backbone, self.dataset, self.mapping, self.max_tokens = backbone, dataset, mapping, max_tokens
        self._folders: dict[str, Path] = {}
        self._label_ids = tuple(tuple(completion_ids(backbone.tokenizer, label)) for label in dataset.labels)
        n_slots = max(1, min(N_SLOTS, MOST_POSITIONS // length))
        n_layers, n_heads, width = heads_of(backbone.model.config)
        slots = 2 * n_layers * n_heads * width * length * n_slots * backbone.model.dtype.itemsize
        model = sum(tensor.nbytes for tensor in backbone.model.parameters())
        self.engine = Engine(
            backbone, artifact_folder=lambda artifact: self._folders[artifact], n_slots=n_slots, length=length,
            prefill_tokens=PREFILL_TOKENS, queue_limit=1_000_000, own_bytes=2 * model + slots,
        )  # fmt: skip

    def answers(
        self, asked: Asked, *, artifact: Path | None, seed: int, check: Check, progress: Progress
    ) -> list[dict[str, Any]]:
        """A line for each test row."""
        name = None
        if artifact is not None:
            name = artifact_id(artifact)
            self._folders[name] = artifact
        rows = self.dataset.splits["test"]
        items = [
            _Asking(row=row, place=place, requests=self._requests(asked, row, place, name, seed))
            for place, row in enumerate(rows)
        ]
        # What all rows begin with is kept once two rows have been read; from then on it is copied.
        n_over = 0
        for part in (items[:1], items[1:2], items[2:]):
            self._submit(part)
            self._follow(part, check, partial(_further, progress, n_over, len(items)))
            n_over += len(part)
        return [self._line(item, asked) for item in items]

    def _requests(self, asked: Asked, row: Row, place: int, artifact: str | None, seed: int) -> list[Request]:
        n, scores = asked.frame.n_samples, bool(self._label_ids) and not asked.writes_first
        ids = self._prompt(asked, row, n_written=1 if scores else self.max_tokens)
        if ids is None:
            return []
        return [
            Request(
                id=f"{place}.{sample}", team_id=TEAM, prompt_ids=ids, artifact=artifact, label=artifact or "",
                sampling=Sampling(
                    max_tokens=1 if scores else self.max_tokens, seed=seed * 1000 + sample,
                    temperature=asked.frame.sample_temperature if n > 1 else 0.0,
                ),
                choices=self._label_ids if scores else (), writes=not scores,
            )
            for sample in range(n)
        ]  # fmt: skip

    def _prompt(self, asked: Asked, row: Row, *, n_written: int) -> tuple[int, ...] | None:
        """With the passages that there is room for, as an engine serves it; None where the answer is the collection's
        refusal, as nothing in it is near enough."""
        tokenizer, messages = self.backbone.tokenizer, asked.messages(row, self.mapping)
        ids = prompt_ids(tokenizer, messages)
        if asked.passages is not None:
            room, count = self.engine.scheduler.length - n_written, counter(tokenizer)
            budget = sources_budget(room, n_prompt=len(ids), question=messages[-1]["content"], count=count)
            hits = fit_sources(asked.hits(row, self.mapping), budget_tokens=budget, count=count)
            if not hits:
                return None
            ids = prompt_ids(tokenizer, sources_prompt(messages, hits))
        return tuple(ids)

    def _submit(self, items: Sequence[_Asking]) -> None:
        for item in items:
            try:
                for request in item.requests:
                    self.engine.submit(request)
            except ColdframeError as error:  # as long as the others of its row: none of them was taken
                item.error = error

    def _follow(self, items: Sequence[_Asking], check: Check, progress: Callable[[int], None]) -> None:
        owner = {request.id: item for item in items for request in item.requests}
        n_over = -1
        try:
            while not self.engine.is_idle:
                check()
                for event in self.engine.step():
                    _note(owner[event.id], event)
                self.engine.wait(0.1)
                n_now = sum(item.is_over for item in items)
                if n_now != n_over:
                    n_over = n_now
                    progress(n_over)
        except BaseException:
            for request_id in owner:
                self.engine.cancel(request_id)
            self.engine.step()  # takes the cancels also where all is over, so that they meet no later request
            while not self.engine.is_idle:
                self.engine.step()
            raise

    def _line(self, item: _Asking, asked: Asked) -> dict[str, Any]:
        line: dict[str, Any] = {
            "place": item.place, "row": item.row.number, "question": item.row.messages[-1]["content"][:MOST_TEXT],
            "expected": item.row.completion, **kept_answers(item.row.answers),
        }  # fmt: skip
        if item.error is not None:
            return {**line, "got": "", "error": item.error.as_dict()}
        if not item.requests and asked.passages is not None:
            return {**line, **self._read(asked.passages.refusal), "tokens_in": 0, "tokens_out": 0}
        done = [item.done[request.id] for request in item.requests]
        return {**line, **self._got(done, asked), **_figures(item, done)}

    def _got(self, done: Sequence[Done], asked: Asked) -> dict[str, Any]:
        labels = self.dataset.labels
        if done[0].scores:
            best = max(range(len(labels)), key=done[0].scores.__getitem__)
            return {"got": labels[best], "scores": [round(score, 4) for score in done[0].scores]}
        texts = [one.text.strip()[:MOST_TEXT] for one in done]
        if not asked.writes_first:
            return self._read(without_markers(texts[0]) if asked.passages else texts[0])
        won = vote(asked.frame.rule, texts) if len(texts) > 1 else None
        found = won.answer if won else extract(asked.frame.rule, texts[0])
        got = label_in(found or "", labels) if labels else found or ""
        return {"got": got, "text": texts[won.chosen if won else 0]}

    def _read(self, text: str) -> dict[str, Any]:
        """What counts of a text that is the answer."""
        got = label_in(text, self.dataset.labels) if self.dataset.labels else text
        return {"got": got} if got == text else {"got": got, "text": text}


def _further(progress: Progress, n_before: int, n_all: int, n_done: int) -> None:
    progress(n_before + n_done, n_all)


def _note(item: _Asking, event: Event) -> None:
    if isinstance(event, Started):
        item.started = item.started or event
    elif isinstance(event, Done):
        item.done[event.id] = event
    elif isinstance(event, Failed):
        item.error = event.error


def _figures(item: _Asking, done: Sequence[Done]) -> dict[str, Any]:
    return {
        "tokens_in": done[0].prompt_tokens, "tokens_out": sum(one.completion_tokens for one in done),
        "tokens_prefix": item.started.prefix_tokens if item.started else 0,
        "latency_ms": round(max(one.slot_ms for one in done), 1),
        "first_token_ms": round(done[0].first_token_ms, 1),
    }  # fmt: skip


def by_objective(
    objective: Objective, model: Any, dataset: Dataset, *, check: Check, progress: Progress
) -> list[dict[str, Any]]:
    """A line for each test row, of a model of a family that no engine serves."""
    rows = dataset.splits["test"]
    progress(0, len(rows))
    model.eval()
    lines = [
        {"place": place, "row": row.number, "question": row.messages[-1]["content"][:MOST_TEXT],
         "expected": row.completion, **kept_answers(row.answers)}
        for place, row in enumerate(rows)
    ]  # fmt: skip
    if dataset.labels:
        scores = objective.label_scores(model, rows, check)
        found = [{"got": dataset.labels[max(range(len(s)), key=s.__getitem__)], "scores": [round(x, 4) for x in s]}
                 for s in scores]  # fmt: skip
    else:
        found = [{"got": text} for text, _ in objective.answers(model, rows, check)]
    progress(len(rows), len(rows))
    return [{**line, **got} for line, got in zip(lines, found, strict=True)]
