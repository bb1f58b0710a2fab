"""A classifier head's answer: the label, from the final states of a prompt that is read beside all others.

Legend: D width, L labels. The head itself is ml.heads, which also says how features are pooled; here they are gathered
while the prompt is read in chunks. Guarantee: equal to training's features up to float32 rounding, whatever the chunks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ml.engine.answers import ended
from ml.engine.types import Done, Label, Row, Token
from ml.errors import ModelError
from ml.heads import HeadModel

_NOTHING = 1e-300


class Pool:
    """The features of one row: the mean of its final states, the first or the last of them."""

    def __init__(self, pooling: str) -> None:
        self._pooling = pooling
        self._state: Tensor | None = None
        self._n = 0

    def add(self, states: Tensor) -> None:
        """The next tokens' final states [n, D]."""
        states = states.float()
        if self._pooling == "mean":
            total = states.sum(0)
            self._state = total if self._state is None else self._state + total
        elif self._pooling == "last":
            self._state = states[-1].clone()
        elif self._state is None:
            self._state = states[0].clone()
        self._n += len(states)

    @property
    def features(self) -> Tensor:
        """[D], float32."""
        if self._state is None:
            raise ValueError("no state was added")
        return self._state / self._n if self._pooling == "mean" else self._state


def prepare(row: Row) -> None:
    """Makes the row one that reads its prompt and nothing else; its adapter has a head."""
    row.pool = Pool(row.adapter.head.pooling)
    row.unread, row.answer = list(row.request.prompt_ids), []
    row.scoring, row.n_scratch = None, 0


@torch.inference_mode()
def labels_of(head: HeadModel, features: Tensor) -> tuple[Label, ...]:
    """All labels, the likeliest first. Raises ModelError when the features [D] are not finite."""
    probabilities = head(features[None])[0].double().softmax(-1)
    if not bool(torch.isfinite(probabilities).all()):
        raise ModelError("The model produced values that are not finite.", hint="Train the adapter again.")
    found = [Label(label=x, probability=p) for x, p in zip(head.labels, probabilities.tolist(), strict=True)]
    return tuple(sorted(found, key=lambda label: -label.probability))


def _scores(choices: Sequence[Sequence[int]], labels: Sequence[Label], tokenizer: Any) -> tuple[float, ...]:
    """The log probability of each text that is one of the labels; of any other that of next to nothing."""
    known = {found.label.strip(): found.probability for found in labels}
    texts = [str(tokenizer.decode(choice, skip_special_tokens=True)).strip() for choice in choices]
    return tuple(math.log(max(known.get(text, 0.0), _NOTHING)) for text in texts)


def answer(row: Row, *, step: int, n_live: int, tokenizer: Any) -> tuple[Token | None, Done]:
    """The label as one event with all its tokens, and the end. No Token when an earlier engine has sent it already.

    Raises ModelError when the features are not finite.
    """
    labels = labels_of(row.adapter.head, row.pool.features)
    text = labels[0].label
    ids = tuple(int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"])
    row.first_token, row.first_step, row.last_step = time.monotonic(), step, step
    done = replace(ended(row, "stop"), text=text, completion_tokens=len(ids), labels=labels)
    if row.request.choices:
        n_scored = tuple(len(choice) for choice in row.request.choices)
        done = replace(done, scores=_scores(row.request.choices, labels, tokenizer), n_scored=n_scored)
    if row.request.emitted:
        return None, done
    return Token(id=row.request.id, ids=ids, text=text, step=step, rows=n_live, n=len(ids)), done
