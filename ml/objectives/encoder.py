"""Encoders: a classifier over the data set's labels on the whole text.

Rows are padded on the right and masked, so a row's result does not depend on its batch. The classifier's labels are
those that the backbone was loaded with; the data set may hold some of them in another order. An encoder writes no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ml.backbone import Backbone
from ml.data.plain_text import LabelledText, encode_labelled, text_ids
from ml.data.rows import Dataset, Row, check_every_label_is_taught, row_named
from ml.errors import DataError, ModelError, SpecError
from ml.forward import base_of, pad_right
from ml.objectives import Check
from ml.objectives.decoder import ROWS_AT_ONCE, by_length
from ml.specs import TrainSpec


def objective(spec: TrainSpec, backbone: Backbone, dataset: Dataset, max_length: int) -> EncoderObjective:
    """Raises ModelError for a backbone without classifier, DataError for labels that it does not have."""
    if len(backbone.labels) < 2:
        raise ModelError(
            f"{backbone.name} was loaded without labels, so it has no classifier.",
            hint="Load it with the labels of the data set.",
            field="base",
        )
    most_rows = min(ROWS_AT_ONCE, 2 * spec.micro_batch_size)
    return EncoderObjective(backbone=backbone, dataset=dataset, max_length=max_length, most_rows=most_rows)


class EncoderObjective:
    """Cross entropy of the classifier: one target a row."""

    measures_plain = False

    def __init__(self, *, backbone: Backbone, dataset: Dataset, max_length: int, most_rows: int = ROWS_AT_ONCE) -> None:
        self.tokenizer, self.dataset, self.max_length = backbone.tokenizer, dataset, max_length
        self.most_rows = most_rows
        self.labels = backbone.labels
        if unknown := [label for label in dataset.labels if label not in self.labels]:
            raise DataError(
                f"The classifier does not have the labels {', '.join(unknown):.200}.",
                hint="It has: " + ", ".join(self.labels)[:300],
                field="labels",
            )
        self.places = [self.labels.index(label) for label in dataset.labels]

    def encode(self, rows: Sequence[Row]) -> list[LabelledText]:
        """Raises DataError for a label without a training row, too."""
        check_every_label_is_taught(self.dataset)
        return encode_labelled(rows, self.tokenizer, self.labels, self.max_length)

    def nll(self, model: Any, batch: Sequence[LabelledText]) -> Tensor:
        logits = self._logits(model, [item.ids for item in batch])  # [B, L]
        targets = torch.tensor([item.label for item in batch], device=logits.device)
        return functional.cross_entropy(logits, targets, reduction="none")

    def _logits(self, model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
        ids, mask = pad_right(rows, base_of(model).device)  # [B, T]
        ids = ids.masked_fill(~mask, self.tokenizer.pad_token_id)
        logits: Tensor = model(input_ids=ids, attention_mask=mask.long()).logits
        return logits.float()

    def label_lengths(self) -> list[int]:
        return [1] * len(self.places)

    @torch.no_grad()
    def label_scores(self, model: Any, rows: Sequence[Row], check: Check) -> list[list[float]]:
        encoded = []
        for row in rows:
            with row_named(row):
                encoded.append(text_ids(self.tokenizer, row.messages, self.max_length)[0])
        found: dict[int, list[float]] = {}
        for batch in by_length([len(ids) for ids in encoded], self.most_rows):
            check()
            scores = self._logits(model, [encoded[i] for i in batch]).log_softmax(-1)[:, self.places]  # [B, L]
            found |= dict(zip(batch, scores.tolist(), strict=True))
        return [found[i] for i in range(len(rows))]

    def answers(self, model: Any, rows: Sequence[Row], check: Check, *, writes: bool = True) -> list[tuple[str, float]]:
        raise SpecError(
            "An encoder model gives labels, not text.",
            hint="Choose a decoder or an encoder-decoder model, or a classification data set.",
            field="base",
        )
