"""The output layers alone: the final norm and the output layer, or an encoder's pooler and classifier.

A language model's output layer that shares its matrix with the input embeddings gets a copy of its own, so that the
input side stays frozen. Origin: Howard and Ruder 2018, arXiv 1801.06146, section 3.3, whose gradual unfreezing begins
with the last layer alone; here it also ends there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.anatomy import answering_stack, output_modules
from ml.backbone import Backbone
from ml.weights import untie


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone's model with its output layers trainable. `seed` draws nothing here.

    Raises ModelError for an encoder without a classifier.
    """
    model = backbone.model
    untie(model)
    model.requires_grad_(False)
    norm = answering_stack(model).norm
    for module in (*([norm] if norm is not None else []), *output_modules(model)):
        module.requires_grad_(True)
    return model
