"""A head on frozen features, and training some or all of the model's own weights."""

from __future__ import annotations

from ml.specs.fields import EVERY_FAMILY, Field, Method

_CACHE = Field(
    name="cache_activations", label="Keep activations below", kind="bool", default=True, advanced=True,
    help="Compute what the frozen layers say about each row once and keep it on disk: every later visit costs only "
         "the trained part. Off: compute it anew each time.",
)  # fmt: skip

HEAD = Method(
    name="head",
    label="Classifier head",
    glyph="t-head",
    summary="Logistic regression on the frozen model's features; the model runs once over the data.",
    wins="Labels learned in seconds once the features are there; one forward pass and no generation to answer.",
    costs="Classification only; the features must already tell the labels apart.",
    paper="Alain and Bengio 2016, Understanding intermediate layers using linear classifier probes",
    arxiv="1610.01644",
    form="head",
    storage="head",
    families=("decoder", "encoder"),
    tasks=("classification",),
    not_for={
        "generation": "A classifier head answers with one of the labels; it cannot write free text.",
        "encoder_decoder": "A classifier head sits on one stack of features; train LoRA on an encoder-decoder instead.",
    },
    defaults={"learning_rate": 1e-2, "weight_decay": 1e-2, "batch_size": 64, "steps": 300},
    fields=(
        Field(name="pooling", label="Features", kind="choice", default="mean", choices=("mean", "last", "first"),
              advanced=True,
              help="The final layer's vectors averaged over the row, or its last or first token's alone."),
    ),
)  # fmt: skip

OUTPUT_LAYERS = Method(
    name="output_layers",
    label="Output layers",
    glyph="t-output",
    summary="Trains the final normalization and the output layer only.",
    wins="A quick change of what the model prefers to say; every layer below stays frozen and is computed once.",
    costs="As large as the vocabulary times the width; served on a model of its own.",
    paper="Howard and Ruder 2018, Universal Language Model Fine-tuning for Text Classification (its last layer)",
    arxiv="1801.06146",
    form="own_backbone",
    storage="weights",
    families=EVERY_FAMILY,
    merges=True,
    defaults={"learning_rate": 3e-3, "weight_decay": 0.0},
    fields=(_CACHE,),
)

LAST_K = Method(
    name="last_k",
    label="Last layers",
    glyph="t-lastk",
    summary="Trains the last k layers and the final normalization.",
    wins="Close to full fine-tuning where the task is near what the model knows, for a fraction of its time.",
    costs="Megabytes to gigabytes a task; served on a model of its own.",
    paper="Lee, Tang and Lin 2019, What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning",
    arxiv="1911.03090",
    form="own_backbone",
    storage="weights",
    families=EVERY_FAMILY,
    merges=True,
    defaults={"learning_rate": 1e-3, "weight_decay": 0.0},
    fields=(
        Field(name="k", label="Layers to train", kind="int", default=2, low=1, high=1000,
              help="Counted from the output; no more than the model has."),
        _CACHE,
    ),
)  # fmt: skip

FULL = Method(
    name="full",
    label="Full fine-tuning",
    glyph="t-full",
    summary="Trains every weight of the model.",
    wins="The most the model can learn; worth it with much data and when nothing cheaper is enough.",
    costs="Twelve bytes or more of memory a weight, a whole model on disk for each task, and a model of its own to "
    "serve it.",
    paper="Howard and Ruder 2018, Universal Language Model Fine-tuning for Text Classification",
    arxiv="1801.06146",
    form="own_backbone",
    storage="weights",
    families=EVERY_FAMILY,
    merges=True,
    defaults={"learning_rate": 1e-4, "weight_decay": 0.0},
    fields=(),
)
