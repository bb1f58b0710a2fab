"""A classifier head: logistic regression on the frozen model's features (Alain and Bengio 2016, arXiv 1610.01644).

The head starts at zero: every label equally likely, as the problem is convex and needs no random start. Deviations
from the paper: the final layer only; features averaged over the row by default, and standardized.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.backbone import Backbone
from ml.errors import SpecError
from ml.heads import HeadModel


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """A HeadModel for `backbone.labels` over the frozen backbone. `seed` draws nothing here.

    Raises SpecError when there are no labels to tell apart, and for the first token's features of a decoder.
    """
    if len(backbone.labels) < 2:
        raise SpecError(
            f"A classifier head needs at least two labels, got {list(backbone.labels)!r}.",
            hint="Use a classification data set.",
            field="method",
        )
    pooling = str(options["pooling"])
    if pooling == "first" and backbone.family == "decoder":
        raise SpecError(
            "The first token of a decoder has seen nothing of the row: its features are the same for all.",
            hint="Choose the mean or the last token.",
            field="pooling",
        )
    backbone.model.requires_grad_(False)
    return HeadModel(backbone.model, labels=backbone.labels, pooling=pooling)
