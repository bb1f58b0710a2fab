"""LoRA (Hu et al. 2021, arXiv 2106.09685, section 4.1): W x + (alpha / rank) B A x, with A and B trained.

A starts as PEFT's Kaiming-uniform random numbers (the paper: Gaussian), B as zeros, so training starts at the frozen
model. With rank-stabilized scaling (arXiv 2312.03732) the factor is alpha / sqrt(rank); with DoRA (arXiv 2402.09353)
each output's magnitude is trained too, from the frozen weight's own. The output layer is never changed; an encoder's
new classifier is trained whole beside the adapter. Deviation: every linear layer by default (the paper: attention
only), as QLoRA (arXiv 2305.14314, section 4) found to be needed to match full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.backbone import Backbone
from ml.methods.common import low_rank


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone with low-rank changes in the layers of `options["targets"]`. `seed` is already set by the caller.

    `targets` is `all-linear`, `attention`, or names of linear layers with commas between them: a last part (`q_proj`)
    or a longer ending (`mlp.c_proj`). Raises SpecError listing the model's own names when one matches nothing.
    """
    return low_rank(backbone, options, dora=bool(options["dora"]))
