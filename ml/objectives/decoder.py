"""Decoders: the answer's tokens after the chat template's prompt; labels scored as answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ml.backbone import Backbone
from ml.data.chat import Example, completion_ids, example_ids, stop_ids
from ml.data.rows import Dataset, Row, encode_rows
from ml.evaluate.scoring import generate_greedy, n_rows_at_once, score_labels
from ml.forward import base_of, completion_nll, has_dropout
from ml.objectives import Check
from ml.specs import TrainSpec

ROWS_AT_ONCE = 16
_MOST_NEW_TOKENS = 256


def objective(spec: TrainSpec, backbone: Backbone, dataset: Dataset, max_length: int) -> DecoderObjective:
    return DecoderObjective(
        tokenizer=backbone.tokenizer,
        labels=dataset.labels,
        max_length=max_length,
        whole_rows=spec.gradient_checkpointing,
        most_rows=2 * spec.micro_batch_size,
    )


class DecoderObjective:
    """Completion-only loss through the model's own chat template (`ml.data.chat`)."""

    measures_plain = True

    def __init__(
        self, *, tokenizer: Any, labels: Sequence[str], max_length: int, whole_rows: bool = False,
        most_rows: int = ROWS_AT_ONCE,
    ) -> None:  # fmt: skip
        """`most_rows` an evaluation takes at once: what fits while training decides what fits while asking."""
        self.tokenizer, self.labels, self.max_length, self.whole_rows = tokenizer, list(labels), max_length, whole_rows
        self.most_rows = most_rows

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        return encode_rows(rows, self.tokenizer, self.max_length)

    def nll(self, model: Any, batch: Sequence[Example]) -> Tensor:
        sharing = not (model.training and has_dropout(model))
        return completion_nll(model, batch, sharing=sharing, whole_rows=self.whole_rows)[0]

    def _rows_at_once(self) -> int:
        return min(ROWS_AT_ONCE, self.most_rows)

    def label_lengths(self) -> list[int]:
        return [len(ids) for ids in self._label_ids()]

    def _label_ids(self) -> list[list[int]]:
        return [completion_ids(self.tokenizer, label) for label in self.labels]

    def label_scores(self, model: Any, rows: Sequence[Row], check: Check) -> list[list[float]]:
        label_ids = self._label_ids()
        longest = max(zip(label_ids, self.labels, strict=True), key=lambda pair: len(pair[0]))[1]
        examples = [example_ids(self.tokenizer, row.messages, longest, self.max_length) for row in rows]
        prompts = [example.ids[: example.n_prompt] for example in examples]
        n_positions = 1 + sum(len(ids) - 1 for ids in label_ids)
        found: dict[int, list[float]] = {}
        for batch in by_length([len(p) for p in prompts], n_rows_at_once(model, n_positions, self._rows_at_once())):
            check()
            scores = score_labels(model, [prompts[i] for i in batch], label_ids)  # [B, L]
            found |= dict(zip(batch, scores.tolist(), strict=True))
        return [found[i] for i in range(len(rows))]

    def answers(self, model: Any, rows: Sequence[Row], check: Check, *, writes: bool = True) -> list[tuple[str, float]]:
        examples = self.encode(rows)
        longest = max((example.n_targets for example in examples), default=0)
        stop = stop_ids(self.tokenizer, base_of(model).generation_config)
        found: dict[int, tuple[str, float]] = {}
        for batch in by_length([e.n_tokens for e in examples], self._rows_at_once()):
            check()
            chosen = [examples[i] for i in batch]
            with torch.no_grad():
                nll, owner = completion_nll(model, chosen)
            loss = nll.new_zeros(len(batch)).index_add_(0, owner, nll) / owner.bincount(minlength=len(batch))
            if not writes:
                found |= {i: ("", value) for i, value in zip(batch, loss.tolist(), strict=True)}
                continue
            prompts = [e.ids[: e.n_prompt] for e in chosen]
            most = min(_MOST_NEW_TOKENS, longest + longest // 2)
            ids = generate_greedy(model, prompts, max_tokens=most, stop=stop, check=check)
            texts = [self.tokenizer.decode(answer, skip_special_tokens=True) for answer in ids]
            found |= dict(zip(batch, zip(texts, loss.tolist(), strict=True), strict=True))
        return [found[i] for i in range(len(rows))]


def by_length(lengths: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Batches of at most `size` indices, short rows first."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return (order[i : i + size] for i in range(0, len(order), size))
