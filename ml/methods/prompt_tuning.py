"""Prompt tuning (Lester, Al-Rfou and Constant 2021, arXiv 2104.08691): trained vectors in front of the input.

The vectors start as embeddings of sampled vocabulary (the paper's section 3.2 samples the 5,000 most common tokens;
here: the whole vocabulary without control tokens), as the embeddings of a text, or as small random numbers. They are
drawn here, from the run's seed, and not by PEFT, so that no tokenizer path ends up in the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from torch import Tensor

from ml.backbone import Backbone
from ml.errors import SpecError


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone with `n_virtual_tokens` trainable vectors [n_virtual_tokens, D] in front of every input."""
    n_tokens = int(options["n_virtual_tokens"])
    start = _start_vectors(backbone, options, n_tokens, seed)
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=n_tokens)
    model: Any = get_peft_model(backbone.model, config)
    model.prompt_encoder["default"].embedding.weight.data.copy_(start)
    return model


def _start_vectors(backbone: Backbone, options: Mapping[str, Any], n_tokens: int, seed: int) -> Tensor:
    table = backbone.model.get_input_embeddings().weight.detach()  # [V, D]
    generator = torch.Generator().manual_seed(seed)
    if options["init"] == "random":
        return torch.randn(n_tokens, table.shape[1], generator=generator) * float(table.float().std())
    if options["init"] == "text":
        ids = _text_ids(backbone.tokenizer, str(options["init_text"]), n_tokens)
    else:
        control = set(backbone.tokenizer.all_special_ids)
        usable = [i for i in range(min(len(backbone.tokenizer), table.shape[0])) if i not in control]
        ids = [usable[i] for i in torch.randint(len(usable), (n_tokens,), generator=generator).tolist()]
    return table[torch.tensor(ids, device=table.device)].float().cpu()


def _text_ids(tokenizer: Any, text: str, n_tokens: int) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise SpecError(
            f"Starting from text needs a text, got {text!r}.",
            hint="Write the task's instruction, or start from the vocabulary.",
            field="init_text",
        )
    return [int(ids[i % len(ids)]) for i in range(n_tokens)]
