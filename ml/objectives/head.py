"""A classifier head: the frozen model runs once over the rows, then only a [labels, width] matrix is trained.

Legend: B rows, D width, L labels. A decoder reads a row's prompt through its chat template, up to where it would
answer; an encoder reads the row's text. `prepare` computes the features of all training rows in a fixed order and fixed
batches, keeps them on the disk of the run's work folder (`cache/features`), and standardizes by their mean and standard
deviation; a resumed run reads the same bytes. Features of measured rows are computed once and held in memory. The
untouched decoder, asked for the same rows, scores the labels as answers; its scores are normalized over the labels, so
that its loss and the head's mean the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional

from ml.backbone import Backbone
from ml.data.chat import prompt_ids
from ml.data.plain_text import LabelledText, text_ids
from ml.data.rows import Dataset, Row, check_every_label_is_taught, row_named
from ml.errors import DataError, SpecError
from ml.events import Emitter
from ml.families import n_positions
from ml.forward import n_common, pad_right
from ml.heads import HeadModel
from ml.kept import Kept, NoRoom, Writer, keep, tell_progress
from ml.objectives import Check
from ml.objectives.decoder import ROWS_AT_ONCE, DecoderObjective, by_length
from ml.specs import TrainSpec

NO_ROOM = NoRoom(what="The frozen model's features", hint="Use fewer rows, or free some disk space.")
_FEATURES, _MOMENTS = "features", "moments"


def objective(spec: TrainSpec, backbone: Backbone, dataset: Dataset, max_length: int) -> HeadObjective:
    """Raises DataError for labels that the head does not have."""
    positions = n_positions(backbone.model.config)
    longest = max_length if positions is None else min(max_length, positions)
    return HeadObjective(backbone=backbone, dataset=dataset, max_length=longest, most_rows=2 * spec.micro_batch_size)


class HeadObjective:
    """Cross entropy of the labels: one target a row."""

    def __init__(self, *, backbone: Backbone, dataset: Dataset, max_length: int, most_rows: int = ROWS_AT_ONCE) -> None:
        """`most_rows`: how many the frozen model may see at once."""
        self.backbone, self.dataset, self.max_length = backbone, dataset, max_length
        self.at_once = min(ROWS_AT_ONCE, most_rows)
        self.measures_plain = backbone.family == "decoder"
        self.labels = list(backbone.labels)
        if unknown := [label for label in dataset.labels if label not in self.labels]:
            raise DataError(
                f"The head does not have the labels {', '.join(unknown):.200}.",
                hint="It has: " + ", ".join(self.labels)[:300],
                field="labels",
            )
        self.places = [self.labels.index(label) for label in dataset.labels]
        self._numbers: dict[int, int] = {}
        self._kept: Kept | None = None
        self._measured: dict[tuple[int, ...], Tensor] = {}

    def encode(self, rows: Sequence[Row]) -> list[LabelledText]:
        """Raises DataError with the row's number, and for a label without a training row."""
        check_every_label_is_taught(self.dataset)
        items = []
        for row in rows:
            ids, n_cut = self._ids(row)
            items.append(LabelledText(ids=ids, label=self.labels.index(row.completion), n_cut=n_cut))
        return items

    def _ids(self, row: Row) -> tuple[list[int], int]:
        with row_named(row):
            if self.backbone.family == "encoder":
                return text_ids(self.backbone.tokenizer, row.messages, self.max_length)
            ids = prompt_ids(self.backbone.tokenizer, row.messages)
            n_cut = max(0, len(ids) - self.max_length)
            return ids[n_cut:], n_cut

    def prepare(
        self, model: HeadModel, items: Sequence[LabelledText], workdir: Path, emit: Emitter, check: Check
    ) -> None:
        """Computes or finds the features of every item, and standardizes `model` by them.

        Raises SpecError when the disk has no room for them.
        """
        self._numbers = {id(item): number for number, item in enumerate(items)}
        width = int(model.weight.shape[1])
        self._kept = keep(
            workdir / "cache" / "features",
            identity=self._identity(model, items),
            n_bytes=(len(items) + 2) * width * 4,
            fill=lambda writer: self._compute(model, items, writer, emit, check),
            no_room=NO_ROOM,
        )
        moments = self._kept.row(_MOMENTS, 0)  # [2, D]
        model.standardize(moments[0], moments[1])

    def _identity(self, model: HeadModel, items: Sequence[LabelledText]) -> dict[str, Any]:
        digest = hashlib.sha256(repr([item.ids for item in items]).encode())
        return {
            "base": self.backbone.fingerprint,
            "pooling": model.pooling,
            "at_once": self.at_once,
            "rows_sha256": digest.hexdigest(),
            "dtype": str(self.backbone.model.dtype),
            "device": model.device.type,
            "versions": [str(torch.__version__), transformers.__version__],
        }

    def _compute(
        self, model: HeadModel, items: Sequence[LabelledText], writer: Writer, emit: Emitter, check: Check
    ) -> None:
        done, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for numbers in by_length([item.n_tokens for item in items], self.at_once):
            check()
            features = self._features(model, [items[number].ids for number in numbers]).cpu()  # [B, D]
            for number, vector in zip(numbers, features, strict=True):
                writer.row(_FEATURES, number, [writer.piece(vector[None])])
            total, squares = total + features.double().sum(0), squares + features.double().square().sum(0)
            done += len(numbers)
            tell_progress(emit, done, len(items), self.at_once, "computing the frozen model's features, once")
        mean = total / len(items)
        std = (squares / len(items) - mean.square()).clamp(min=0).sqrt()
        writer.row(_MOMENTS, 0, [writer.piece(torch.stack([mean, std]).float())])

    def _features(self, model: HeadModel, rows: Sequence[Sequence[int]]) -> Tensor:
        n_shared = n_common([list(row[:-1]) for row in rows]) if self.backbone.family == "decoder" else 0
        ids, mask = pad_right([row[n_shared:] for row in rows], model.device)  # [B, T]
        ids = ids.masked_fill(~mask, self.backbone.tokenizer.pad_token_id)
        return model.features(ids, mask, rows[0][:n_shared])

    def nll(self, model: HeadModel, batch: Sequence[LabelledText]) -> Tensor:
        """[B] in nats. Only for items that were prepared."""
        kept = self._kept
        if kept is None:
            raise ValueError("The features are not there: prepare comes before the first step.")
        features = torch.cat([kept.row(_FEATURES, self._numbers[id(item)]) for item in batch])  # [B, D]
        targets = torch.tensor([item.label for item in batch], device=model.device)
        return functional.cross_entropy(model(features.to(model.device)), targets, reduction="none")

    def label_lengths(self) -> list[int]:
        return [1] * len(self.places)

    @torch.no_grad()
    def label_scores(self, model: Any, rows: Sequence[Row], check: Check) -> list[list[float]]:
        """Of a head, or of the untouched decoder."""
        if not isinstance(model, HeadModel):
            asked = DecoderObjective(tokenizer=self.backbone.tokenizer, labels=self.dataset.labels,
                                     max_length=self.max_length, most_rows=self.at_once)  # fmt: skip
            scores = torch.tensor(asked.label_scores(model, rows, check), dtype=torch.float64)
            return [[float(score) for score in row] for row in scores.log_softmax(-1)]
        texts = [tuple(self._ids(row)[0]) for row in rows]
        new = [text for text in dict.fromkeys(texts) if text not in self._measured]
        for batch in by_length([len(text) for text in new], self.at_once):
            check()
            chosen = [new[i] for i in batch]
            self._measured |= dict(zip(chosen, self._features(model, chosen).cpu(), strict=True))
        if not texts:
            return []
        features = torch.stack([self._measured[text] for text in texts]).to(model.device)  # [B, D]
        found: list[list[float]] = model(features).log_softmax(-1)[:, self.places].tolist()
        return found

    def answers(self, model: Any, rows: Sequence[Row], check: Check, *, writes: bool = True) -> list[tuple[str, float]]:
        raise SpecError(
            "A classifier head answers with one of the labels; it cannot write free text.",
            hint="Choose another technique, or a classification data set.",
            field="method",
        )
