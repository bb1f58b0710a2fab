"""The last k layers (Lee, Tang and Lin 2019, arXiv 1911.03090): everything below stays frozen.

Trained: the last k blocks of the stack that answers, the norm behind them, and an encoder's pooler and classifier. A
language model's output layer stays frozen (the paper trains classifiers, whose output layer is new and trained).
Deviation: an encoder-decoder's layers are counted in its decoder; its encoder is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.anatomy import answering_stack, output_modules
from ml.backbone import Backbone
from ml.errors import SpecError


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone's model with its last `k` blocks trainable. `seed` draws nothing here.

    Raises SpecError when the model has fewer layers.
    """
    model, k = backbone.model, int(options["k"])
    stack = answering_stack(model)
    if k > stack.depth:
        raise SpecError(
            f"{backbone.name} has {stack.depth} layers, {k} cannot be trained.",
            hint=f"Choose at most {stack.depth}.",
            field="k",
        )
    model.requires_grad_(False)
    for module in (*stack.blocks[stack.depth - k :], *([stack.norm] if stack.norm is not None else [])):
        module.requires_grad_(True)
    if model.get_output_embeddings() is None:
        for module in output_modules(model):
            module.requires_grad_(True)
    return model
