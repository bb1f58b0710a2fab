"""Full fine-tuning: every weight of the model is trained, in the dtype that the model was loaded in.

Weights that the model shares (input embeddings and output layer) stay shared. Origin: Howard and Ruder 2018, arXiv
1801.06146; here without its layer-wise learning rates and gradual unfreezing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.backbone import Backbone


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone's model with every parameter trainable. `seed` draws nothing here."""
    return backbone.model.requires_grad_(True)
