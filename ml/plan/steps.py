"""What a run does with a model, with rows of the longest kind: one micro-batch's loss, and one batch of an evaluation.

These are the very functions of training and evaluation (`ml.forward`, `ml.evaluate.scoring`, `ml.seq2seq`), on rows
without content.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ml.data.chat import Example
from ml.evaluate.scoring import MOST_LOGITS, n_rows_at_once, score_labels
from ml.forward import base_of, completion_nll, has_dropout, n_common, run, share
from ml.heads import width_of
from ml.seq2seq import encode, target_nll, write_greedy

EVAL_ROWS = 16
"""Rows at once in an evaluation (ml/objectives)."""
_WRITTEN = 24
"""Tokens written in a simulated evaluation: what the cache grows by after that is little beside the rows."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a batch, all as long as the longest."""

    longest: int
    """Tokens of a row: of a decoder prompt and answer, of an encoder-decoder the source."""
    n_shared: int = 0
    """Tokens that all rows begin with."""
    n_targets: int = 32
    """Tokens of the answer, its end included."""
    label_tokens: tuple[int, ...] = ()
    """Of a classification: the tokens of each label."""

    def examples(self, n: int) -> list[Example]:
        """`n` rows that have exactly `n_shared` tokens in common."""
        n_prompt = max(1, self.longest - self.n_targets)
        shared = min(self.n_shared, n_prompt - 1)
        return [
            Example(ids=[0] * shared + [i] * (self.longest - shared), n_prompt=n_prompt) for i in range(1, n + 1)
        ]  # fmt: skip

    def sources(self, n: int) -> list[list[int]]:
        """`n` rows as an encoder gets them."""
        return [[0] * self.longest] * n

    def n_chosen(self, n: int) -> int:
        """Positions whose logits are computed for `n` rows of training."""
        return n * min(self.n_targets, max(1, self.longest - 1))


def train_loss(model: Any, kind: str, rows: Rows, n: int, *, whole_rows: bool) -> Tensor:
    """The loss [] of a micro-batch of `n` rows; `kind` is a family, or head."""
    if kind == "head":
        features = torch.zeros(n, width_of(model.backbone_model), device=model.device)  # [B, D]
        return functional.cross_entropy(model(features), torch.zeros(n, dtype=torch.long, device=model.device))
    if kind == "decoder":
        sharing = not (model.training and has_dropout(model))
        return completion_nll(model, rows.examples(n), sharing=sharing, whole_rows=whole_rows)[0].sum() / n
    return _nll(model, kind, rows, n).sum() / n


def _nll(model: Any, kind: str, rows: Rows, n: int) -> Tensor:
    """Negative log likelihood of `n` whole rows' answers."""
    if kind == "encoder_decoder":
        encoded = encode(model, rows.sources(n), pad_id=0)
        return target_nll(model, encoded, [[0] * rows.n_targets] * n)[0]
    ids = torch.zeros(n, rows.longest, dtype=torch.long, device=base_of(model).device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()  # [N, L]
    return functional.cross_entropy(logits, ids[:, 0], reduction="none")


def evaluated_rows(model: Any, kind: str, rows: Rows, most: int) -> tuple[int, int]:
    """Rows at once in an evaluation, at most `most`, and the positions whose logits they need."""
    if kind == "decoder" and rows.label_tokens:
        n_positions = 1 + sum(n - 1 for n in rows.label_tokens)
        n = n_rows_at_once(model, n_positions, most)
        return n, n * n_positions
    if kind == "encoder_decoder" and rows.label_tokens:
        n_answers = _answers_at_once(model, rows)
        n = min(most, n_answers)
        return n, n * max(1, n_answers // n) * max(rows.label_tokens)
    return most, rows.n_chosen(most)


def _answers_at_once(model: Any, rows: Rows) -> int:
    """Labels of rows in one pass of an encoder-decoder's decoder (ml/objectives/encoder_decoder.py)."""
    n_at_once = MOST_LOGITS // (max(rows.label_tokens) * int(base_of(model).config.vocab_size))
    return max(1, min(n_at_once, len(rows.label_tokens) * EVAL_ROWS))


def n_written(rows: Rows) -> int:
    """Tokens that a simulated evaluation writes for a row."""
    return max(1, min(_WRITTEN, rows.n_targets * 3 // 2))


@torch.no_grad()
def evaluate(model: Any, kind: str, rows: Rows, n: int, mark: Callable[[str], None]) -> None:
    """One batch of `n` rows: every label scored, or the expected answer scored and one written.

    `mark` is called with the name of each part that begins: each grows by itself with the model's depth.
    """
    mark("scoring")
    if kind == "head":
        ids = torch.zeros(n, rows.longest, dtype=torch.long, device=model.device)
        model(model.features(ids, torch.ones_like(ids)))
    elif kind == "decoder":
        _evaluate_decoder(model, rows, n, mark)
    elif kind == "encoder_decoder":
        _evaluate_encoder_decoder(model, rows, n, mark)
    else:
        _nll(model, kind, rows, n)


def _evaluate_decoder(model: Any, rows: Rows, n: int, mark: Callable[[str], None]) -> None:
    examples = rows.examples(n)
    prompts = [e.ids[: e.n_prompt] for e in examples]
    if rows.label_tokens:
        score_labels(model, prompts, [[0] * length for length in rows.label_tokens])
        return
    completion_nll(model, examples)
    mark("reading")
    ragged = share(model, prompts, n_common([prompt[:-1] for prompt in prompts]))
    run(model, ragged, keep=ragged.mask, use_cache=True)


def _evaluate_encoder_decoder(model: Any, rows: Rows, n: int, mark: Callable[[str], None]) -> None:
    encoded = encode(model, rows.sources(n), pad_id=0)
    mark("answering")
    if rows.label_tokens:
        answers = [[0] * max(rows.label_tokens)] * max(1, _answers_at_once(model, rows) // n)
        target_nll(model, encoded.each(len(answers)), answers * n)
        return
    target_nll(model, encoded, [[0] * rows.n_targets] * n)
    mark("writing")
    write_greedy(model, encoded, max_tokens=n_written(rows), stop=set(), check=lambda: None)
