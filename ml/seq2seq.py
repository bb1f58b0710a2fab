"""Forward passes of encoder-decoders: the encoder once a row, the decoder as often as needed.

Legend: B rows, S source tokens (virtual ones included), T target tokens, V vocabulary, D width.

Sources and targets are padded on the right and masked: a row's result does not depend on its batch. The PEFT prompt is
put where PEFT puts it (soft prompts in front of the encoder's input, prefixes as keys and values of the decoder's
self-attention), so results equal PEFT's own forward; and gradients flow through all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, PeftType
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ml.forward import base_of, pad_right
from ml.loss import token_nll
from ml.objectives import Check


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the encoder says about a batch."""

    hidden: Tensor
    """[B, S, D]"""
    mask: Tensor
    """[B, S] 1 where there is a token."""

    def each(self, n_times: int) -> Encoded:
        """Every row `n_times` in a row: [B · n, S, D]."""
        return Encoded(hidden=self.hidden.repeat_interleave(n_times, 0), mask=self.mask.repeat_interleave(n_times, 0))


def encode(model: Any, sources: Sequence[Sequence[int]], pad_id: int) -> Encoded:
    """Runs the encoder once over `sources`."""
    base = base_of(model)
    ids, real = pad_right(sources, base.device)  # [B, S]
    ids, mask = ids.masked_fill(~real, pad_id), real.long()
    encoder = base.get_encoder()
    if not _is_soft_prompt(model):
        return Encoded(hidden=encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask=mask)
    n_virtual = int(model.active_peft_config.num_virtual_tokens)
    embedded = model.word_embeddings(ids)
    prompt = model.get_prompt(batch_size=len(sources))[:, :n_virtual].to(embedded.dtype)
    mask = torch.cat([mask.new_ones(len(sources), n_virtual), mask], dim=1)
    hidden = encoder(inputs_embeds=torch.cat([prompt, embedded], dim=1), attention_mask=mask).last_hidden_state
    return Encoded(hidden=hidden, mask=mask)


def _is_soft_prompt(model: Any) -> bool:
    kinds = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)
    return isinstance(model, PeftModel) and model.active_peft_config.peft_type in kinds


def _prefix(model: Any, n_rows: int) -> Any:
    """Keys and values in front of the decoder's; None for other methods."""
    if isinstance(model, PeftModel) and model.active_peft_config.peft_type == PeftType.PREFIX_TUNING:
        return model.get_prompt(n_rows)
    return None


def target_logits(model: Any, encoded: Encoded, targets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Logits [N, V] that predict every token of `targets`, and their rows [N]."""
    base = base_of(model)
    start = int(base.config.decoder_start_token_id)
    ids, _ = pad_right([[start, *target[:-1]] for target in targets], base.device)  # [B, T]
    logits = base(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded.hidden),
        attention_mask=encoded.mask,
        decoder_input_ids=ids,
        past_key_values=_prefix(model, len(targets)),
        use_cache=False,
    ).logits
    places = [(row, place) for row, target in enumerate(targets) for place in range(len(target))]
    owner, column = torch.tensor(places, device=base.device).T  # [N] each, known without looking at the mask
    return logits[owner, column].float(), owner


def target_nll(model: Any, encoded: Encoded, targets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Negative log likelihood [N] in nats of every token of `targets`, and their rows [N]."""
    logits, owner = target_logits(model, encoded, targets)
    wanted = torch.tensor([token for target in targets for token in target], device=logits.device)
    return token_nll(logits, wanted), owner


@torch.no_grad()
def write_greedy(model: Any, encoded: Encoded, *, max_tokens: int, stop: set[int], check: Check) -> list[list[int]]:
    """The likeliest next token until a stop token or `max_tokens`, for every row; stop tokens are left out.

    A first token that the model's generation settings force (a language) is kept; everything else that a stored
    configuration may bring (beams, forced lengths, repetition rules) is not used.
    """
    base, n_rows = base_of(model), encoded.mask.shape[0]
    forced = getattr(base.generation_config, "forced_bos_token_id", None)
    tokens = torch.full((n_rows,), int(base.config.decoder_start_token_id), device=encoded.mask.device)
    cache, live = _prefix(model, n_rows), set(range(n_rows))
    answers: list[list[int]] = [[] for _ in range(n_rows)]
    for place in range(max_tokens):
        out = base(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.hidden),
            attention_mask=encoded.mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        cache, tokens = out.past_key_values, out.logits[:, -1].argmax(-1)  # [B]
        if place == 0 and forced is not None:
            tokens = torch.full_like(tokens, int(forced))
        for row, token in enumerate(tokens.tolist()):
            if row in live and token in stop:
                live.discard(row)
            elif row in live:
                answers[row].append(token)
        if not live:
            break
        check()
    return answers
