"""What a model says about rows: the log probability of every label, and greedy answers.

Legend: B rows, L labels, K kept positions, M label tokens, V vocabulary. Prompts are unpadded id lists; batches share
what they have in common (`ml.forward`). Nothing here samples: the same inputs give the same outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ml.forward import Ragged, base_of, n_common, pad_right, run, share

MOST_LOGITS = 40_000_000
"""Numbers in the logits of one pass of an evaluation."""
MOST_SCORED = 128
"""Tokens of all labels together, beyond which scoring them costs more than the training between two looks."""
Check = Callable[[], None]


def is_cheap(label_lengths: Sequence[int]) -> bool:
    """Whether scoring labels of these lengths, in predictions, costs little beside the prompt. A classifier gives all
    of its labels in one."""
    return max(label_lengths, default=1) == 1 or sum(label_lengths) <= MOST_SCORED


def n_rows_at_once(model: Any, n_positions: int, wanted: int) -> int:
    """`wanted` rows, or as many as keep the logits of `n_positions` positions a row under 160 MB."""
    vocabulary = base_of(model).get_output_embeddings().weight.shape[0]
    return max(1, min(wanted, MOST_LOGITS // (n_positions * vocabulary)))


@torch.no_grad()
def score_labels(model: Any, prompts: Sequence[list[int]], labels: Sequence[list[int]]) -> Tensor:
    """Log probability [B, L] of every label (its end-of-turn token included) as the answer to every prompt.

    A prompt is run once for all labels: they follow it side by side, each seeing the prompt and itself only.
    """
    ragged, keep, mask, positions = _packed(model, prompts, labels)
    logits, _ = run(model, ragged, keep=keep, mask=mask, positions=positions)
    logits = logits.float().view(len(prompts), -1, logits.shape[-1])  # [B, K, V]
    kept, target, owner = _targets(labels, logits.device)  # [M] each
    picked = logits[:, kept, target] - logits.logsumexp(-1)[:, kept]  # [B, M]
    return picked.new_zeros(len(prompts), len(labels)).index_add_(1, owner, picked)


def _packed(
    model: Any, prompts: Sequence[list[int]], labels: Sequence[list[int]]
) -> tuple[Ragged, Tensor, Tensor, Tensor]:
    """Rows of prompt and all labels, the positions whose logits count, tree mask and position ids."""
    n_shared = n_common([prompt[:-1] for prompt in prompts])
    tail = [token for label in labels for token in label[:-1]]
    segments = [k + 1 for k, label in enumerate(labels) for _ in label[:-1]]
    steps = [j for label in labels for j in range(len(label) - 1)]
    ragged = share(model, [prompt + tail for prompt in prompts], n_shared)
    lengths = [len(prompt) - n_shared for prompt in prompts]
    device = ragged.ids.device
    segment, _ = pad_right([[0] * n + segments for n in lengths], device)  # [B, R]
    places = [[*range(n), *(n + j for j in steps)] for n in lengths]
    positions = pad_right(places, device)[0] + ragged.n_past
    column = torch.arange(segment.shape[1], device=device)
    last = torch.tensor(lengths, device=device)[:, None] - 1
    keep = ragged.mask & (column >= last)
    seen = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])  # [B, query, key]
    seen = seen & (column[None, None, :] <= column[None, :, None]) & ragged.mask[:, None, :]
    seen = seen | torch.eye(segment.shape[1], dtype=torch.bool, device=device)
    past = seen.new_ones(seen.shape[0], seen.shape[1], ragged.n_past)
    return ragged, keep, torch.cat([past, seen], dim=2)[:, None], positions


def _targets(labels: Sequence[list[int]], device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """For each label token: which kept position predicts it, the token, the label it belongs to."""
    kept, target, owner, offset = [], [], [], 1
    for number, label in enumerate(labels):
        kept += [0, *range(offset, offset + len(label) - 1)]
        target += label
        owner += [number] * len(label)
        offset += len(label) - 1
    return (torch.tensor(kept, device=device), torch.tensor(target, device=device), torch.tensor(owner, device=device))


@torch.no_grad()
def generate_greedy(
    model: Any, prompts: Sequence[list[int]], *, max_tokens: int, stop: set[int], check: Check = lambda: None
) -> list[list[int]]:
    """The likeliest next token until a stop token or `max_tokens`; answers without their stop token."""
    n_shared = n_common([prompt[:-1] for prompt in prompts])
    ragged = share(model, prompts, n_shared)
    lengths = ragged.mask.sum(dim=1, keepdim=True)  # [B, 1]
    keep = torch.arange(ragged.ids.shape[1], device=lengths.device) == lengths - 1
    logits, cache = run(model, ragged, keep=keep, use_cache=True)
    past = ragged.mask.new_ones(len(prompts), ragged.n_past)
    mask, positions = torch.cat([past, ragged.mask], dim=1).long(), lengths + ragged.n_past
    answers: list[list[int]] = [[] for _ in prompts]
    live = set(range(len(prompts)))
    for _ in range(max_tokens):
        tokens = logits.argmax(-1)  # [B]
        for row, token in enumerate(tokens.tolist()):
            if row in live and token in stop:
                live.discard(row)
            elif row in live:
                answers[row].append(token)
        if not live:
            break
        check()
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        out = base_of(model)(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logits, cache, positions = out.logits[:, -1], out.past_key_values, positions + 1
    return answers
