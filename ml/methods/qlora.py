"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314, section 3): LoRA beside linear layers that are held in NF4.

The base arrives in 4 bits from `load_backbone(..., quantization="nf4")`; what is added is LoRA in float32, beside every
linear layer by default (section 4). Weights are unpacked layer by layer to the compute type, and only A and B get
gradients. Deviation: of what `peft.prepare_model_for_kbit_training` does, nothing but the freezing is needed. Norms
compute their statistics in float32 by themselves and are frozen, so a float32 copy of them, of the embeddings and of
the output layer would cost memory and change the activations' type; gradient checkpointing belongs to the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.backbone import Backbone
from ml.errors import SpecError
from ml.methods.common import low_rank


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The 4-bit backbone with low-rank changes beside it. `seed` is already set by the caller.

    Raises SpecError for a backbone that is not in 4 bits (on the meta device the memory plan counts the bits itself)
    and for names in `targets` that match no linear layer.
    """
    model = backbone.model
    if model.device.type != "meta" and not getattr(model, "is_loaded_in_4bit", False):
        held_in = str(model.dtype).removeprefix("torch.")
        raise SpecError(
            f"QLoRA trains beside a base model that is held in 4 bits; {backbone.name} is held in {held_in}.",
            hint="Load the base model in NF4, or choose LoRA.",
            field="method",
        )
    return low_rank(backbone, options)
