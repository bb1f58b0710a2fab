"""Small changes inside the layers: LoRA and its kin, and learned scales."""

from __future__ import annotations

from ml.specs.fields import EVERY_FAMILY, Field, Method

_LORA_FIELDS = (
    Field(name="rank", label="LoRA rank", kind="int", default=8, low=1, high=256,
          help="Width of the low-rank change. 8 is plenty for most tasks."),
    Field(name="alpha", label="Alpha", kind="float", default=16, low=0.01, high=4096, advanced=True,
          help="The change is scaled by alpha / rank."),
    Field(name="dropout", label="Dropout", kind="float", default=0.0, low=0, high=0.9, advanced=True,
          help="Share of the adapter's inputs dropped while training."),
    Field(name="targets", label="Layers", kind="text", default="all-linear", low=1, high=500, advanced=True,
          help="all-linear, attention, or names of linear layers with commas between them, such as q_proj, v_proj."),
    Field(name="rslora", label="Rank-stabilized scaling", kind="bool", default=False, advanced=True,
          help="Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732)."),
    Field(name="dora", label="Weight-decomposed (DoRA)", kind="bool", default=False, advanced=True,
          help="Train the weights' magnitudes too (arXiv 2402.09353): often better at low rank, slower to train, and "
               "served on a model of its own."),
)  # fmt: skip

LORA = Method(
    name="lora",
    label="LoRA",
    glyph="t-lora",
    summary="Adds a low-rank change to the model's linear layers and trains only that.",
    wins="The best quality for its size on most tasks; learns quickly and forgives settings.",
    costs="Some megabytes an adapter; a few per cent of speed in the batch.",
    paper="Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models",
    arxiv="2106.09685",
    form="lora_delta",
    families=EVERY_FAMILY,
    merges=True,
    defaults={"learning_rate": 1e-3, "weight_decay": 0.0},
    fields=_LORA_FIELDS,
)

QLORA = Method(
    name="qlora",
    label="QLoRA",
    glyph="t-qlora",
    summary="LoRA on a base model that is held in 4 bits while training.",
    wins="Models too large for the memory otherwise: a 65B model trains in less than 48 GB.",
    costs="Slower steps, since weights are unpacked on the way; a trace of quality on small models.",
    paper="Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs",
    arxiv="2305.14314",
    form="lora_delta",
    families=EVERY_FAMILY,
    merges=True,
    defaults={"learning_rate": 1e-3, "weight_decay": 0.0, "optimizer": "paged_adamw"},
    fields=(
        *(f for f in _LORA_FIELDS if f.name != "dora"),
        Field(name="double_quantization", label="Double quantization", kind="bool", default=True, advanced=True,
              help="Quantize the scales of the 4-bit blocks too: 0.37 bits a weight less."),
    ),
)  # fmt: skip

IA3 = Method(
    name="ia3",
    label="IA3",
    glyph="t-ia3",
    summary="Learns one scale for each key, value and inner feature of every layer.",
    wins="The smallest change inside the layers: some tens of kilobytes; hard to overfit with few examples.",
    costs="Says less than LoRA; needs a high learning rate and a model that nearly knows the task.",
    paper="Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
    arxiv="2205.05638",
    form="scale",
    families=EVERY_FAMILY,
    merges=True,
    defaults={"learning_rate": 5e-2, "weight_decay": 0.0},
    fields=(),
)
