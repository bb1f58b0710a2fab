"""Encoder-decoders: the encoder reads the text, the decoder writes the answer, teacher-forced while training.

A label is scored as an answer: the encoder runs once a row and the decoder writes all labels side by side. Answers are
greedy and deterministic. Limits: text and answer together have at most the longest row's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ml.backbone import Backbone
from ml.data.plain_text import TextPair, encode_pairs, target_ids, text_pair
from ml.data.rows import Dataset, Row, row_named
from ml.evaluate.scoring import MOST_LOGITS
from ml.forward import base_of
from ml.objectives import Check
from ml.objectives.decoder import ROWS_AT_ONCE, by_length
from ml.seq2seq import Encoded, encode, target_nll, write_greedy
from ml.specs import TrainSpec

_MOST_NEW_TOKENS = 256


def objective(spec: TrainSpec, backbone: Backbone, dataset: Dataset, max_length: int) -> EncoderDecoderObjective:
    return EncoderDecoderObjective(
        tokenizer=backbone.tokenizer, labels=dataset.labels, max_length=max_length,
        most_rows=min(ROWS_AT_ONCE, 2 * spec.micro_batch_size),
    )  # fmt: skip


class EncoderDecoderObjective:
    """Cross entropy of every token of the answer, its end-of-sequence token included."""

    measures_plain = True

    def __init__(
        self, *, tokenizer: Any, labels: Sequence[str], max_length: int, most_rows: int = ROWS_AT_ONCE
    ) -> None:
        self.tokenizer, self.labels, self.max_length = tokenizer, list(labels), max_length
        self.most_rows = most_rows

    def encode(self, rows: Sequence[Row]) -> list[TextPair]:
        return encode_pairs(rows, self.tokenizer, self.max_length)

    def nll(self, model: Any, batch: Sequence[TextPair]) -> Tensor:
        return target_nll(model, self._encoded(model, batch), [item.target for item in batch])[0]

    def _encoded(self, model: Any, batch: Sequence[TextPair]) -> Encoded:
        return encode(model, [item.ids for item in batch], self.tokenizer.pad_token_id)

    def label_lengths(self) -> list[int]:
        return [len(ids) for ids in self._label_ids()]

    def _label_ids(self) -> list[list[int]]:
        return [target_ids(self.tokenizer, label)[0] for label in self.labels]

    @torch.no_grad()
    def label_scores(self, model: Any, rows: Sequence[Row], check: Check) -> list[list[float]]:
        label_ids = self._label_ids()
        longest = max(zip(label_ids, self.labels, strict=True), key=lambda pair: len(pair[0]))[1]
        items = []
        for row in rows:
            with row_named(row):
                items.append(text_pair(self.tokenizer, row.messages, longest, self.max_length))
        width = max(len(ids) for ids in label_ids) * int(base_of(model).config.vocab_size)
        at_once = max(1, MOST_LOGITS // width)  # answers in one pass of the decoder
        found: dict[int, list[float]] = {}
        for batch in by_length([len(item.ids) for item in items], min(self.most_rows, at_once)):
            check()
            encoded = self._encoded(model, [items[i] for i in batch])
            scores = _score(model, encoded, label_ids, max(1, at_once // len(batch)))  # [B, L]
            found |= dict(zip(batch, scores.tolist(), strict=True))
        return [found[i] for i in range(len(rows))]

    def answers(self, model: Any, rows: Sequence[Row], check: Check, *, writes: bool = True) -> list[tuple[str, float]]:
        items = self.encode(rows)
        longest = max((item.n_targets for item in items), default=0)
        most = min(_MOST_NEW_TOKENS, longest + longest // 2)
        found: dict[int, tuple[str, float]] = {}
        for batch in by_length([len(item.ids) for item in items], self.most_rows):
            check()
            chosen = [items[i] for i in batch]
            with torch.no_grad():
                encoded = self._encoded(model, chosen)
                nll, owner = target_nll(model, encoded, [item.target for item in chosen])
            loss = nll.new_zeros(len(batch)).index_add_(0, owner, nll) / owner.bincount(minlength=len(batch))
            if not writes:
                found |= {i: ("", value) for i, value in zip(batch, loss.tolist(), strict=True)}
                continue
            ids = write_greedy(model, encoded, max_tokens=most, stop=self._stop(model), check=check)
            texts = [self.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in ids]
            found |= dict(zip(batch, zip(texts, loss.tolist(), strict=True), strict=True))
        return [found[i] for i in range(len(rows))]

    def _stop(self, model: Any) -> set[int]:
        config = base_of(model).generation_config
        eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        return {int(i) for i in (*eos, self.tokenizer.eos_token_id) if i is not None}


def _score(model: Any, encoded: Encoded, label_ids: Sequence[list[int]], n_at_once: int) -> Tensor:
    """Log probability [B, L] of every label as the answer to every row, `n_at_once` labels side by side."""
    n_rows, columns = encoded.mask.shape[0], []
    for first in range(0, len(label_ids), n_at_once):
        some = label_ids[first : first + n_at_once]
        nll, owner = target_nll(model, encoded.each(len(some)), [ids for _ in range(n_rows) for ids in some])
        columns.append(-nll.new_zeros(n_rows * len(some)).index_add_(0, owner, nll).view(n_rows, len(some)))
    return torch.cat(columns, dim=1)
