"""Prompt tuning (Lester, Al-Rfou and Constant 2021, arXiv 2104.08691): trained vectors in front of the input.

The vectors start as embeddings of sampled vocabulary (the paper's section 3.2 samples the 5,000 most common tokens;
here: the whole vocabulary without control tokens), as the embeddings of a text, or as random numbers as wide as the
embeddings. They are drawn here, from the run's seed, and not by PEFT, so that no tokenizer path ends up in the
artifact. An encoder-decoder gets them in front of the encoder's input, as in the paper; an encoder's new classifier is
trained beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PromptTuningConfig
from torch import Tensor

from ml.backbone import Backbone
from ml.errors import SpecError
from ml.methods import task_type
from ml.methods.common import embedded, in_front_of, put_on, sampled_vocabulary


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone with `n_virtual_tokens` trainable vectors [n_virtual_tokens, D] in front of every input.

    Raises SpecError when the start text is empty or longer than the virtual tokens.
    """
    n_tokens = int(options["n_virtual_tokens"])
    start = None
    if backbone.model.device.type != "meta":
        start = _start_vectors(backbone, options, n_tokens, seed)
    config = PromptTuningConfig(task_type=task_type(backbone), num_virtual_tokens=n_tokens, **in_front_of(backbone))
    model = put_on(backbone, config)
    if start is not None:
        model.prompt_encoder["default"].embedding.weight.data.copy_(start)
    return model


def _start_vectors(backbone: Backbone, options: Mapping[str, Any], n_tokens: int, seed: int) -> Tensor:
    if options["init"] == "text":
        return embedded(backbone, _text_ids(backbone.tokenizer, str(options["init_text"]), n_tokens))
    if options["init"] == "random":
        some = embedded(backbone, sampled_vocabulary(backbone, 1000, seed))
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(n_tokens, some.shape[1], generator=generator) * float(some.std())
    return embedded(backbone, sampled_vocabulary(backbone, n_tokens, seed))


def _text_ids(tokenizer: Any, text: str, n_tokens: int) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise SpecError(
            f"Starting from text needs a text, got {text!r}.",
            hint="Write the task's instruction, or start from the vocabulary.",
            field="init_text",
        )
    if len(ids) > n_tokens:
        raise SpecError(
            f"The start text is {len(ids)} tokens long, but there are {n_tokens} virtual tokens.",
            hint=f"Shorten the text, or train {len(ids)} virtual tokens.",
            field="init_text",
        )
    return [int(ids[i % len(ids)]) for i in range(n_tokens)]
