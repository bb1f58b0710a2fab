"""Soft prompts: trained vectors, or trained keys and values, at the start of the sequence."""

from __future__ import annotations

from ml.specs.fields import EVERY_FAMILY, Field, Method


def _n_virtual_tokens(default: int, help_text: str) -> Field:
    return Field(name="n_virtual_tokens", label="Virtual tokens", kind="int", default=default, low=1, high=512,
                 help=help_text)  # fmt: skip


PROMPT_TUNING = Method(
    name="prompt_tuning",
    label="Prompt tuning",
    glyph="t-prompt",
    summary="Trains a few virtual tokens in front of the input; the model stays as it is.",
    wins="Many small tasks on one model; an adapter of some kilobytes that never slows the batch.",
    costs="Needs a high learning rate and more steps than LoRA; takes a few positions of the context.",
    paper="Lester, Al-Rfou and Constant 2021, The Power of Scale for Parameter-Efficient Prompt Tuning",
    arxiv="2104.08691",
    form="prefix_kv",
    families=EVERY_FAMILY,
    defaults={"learning_rate": 1e-1, "weight_decay": 0.0},
    fields=(
        _n_virtual_tokens(20, "How many trained vectors stand in front of the input. 20 is the paper's robust choice."),
        Field(name="init", label="Start from", kind="choice", default="vocabulary",
              choices=("vocabulary", "text", "random"), advanced=True,
              help="Embeddings of sampled vocabulary, of a text, or small random numbers."),
        Field(name="init_text", label="Start text", kind="text", default="", high=2000, advanced=True,
              help="Used when starting from text: an instruction for the task, no longer than the virtual tokens; "
                   "a shorter one is repeated."),
    ),
)  # fmt: skip

P_TUNING = Method(
    name="p_tuning",
    label="P-tuning",
    glyph="t-ptuning",
    summary="Virtual tokens that come out of a small trained network, a bidirectional LSTM or an MLP.",
    wins="Where prompt tuning is unsteady: the network ties the vectors together and evens out the learning.",
    costs="More to train than prompt tuning for the same few kilobytes served; the network itself is thrown away.",
    paper="Liu et al. 2021, GPT Understands, Too",
    arxiv="2103.10385",
    form="prefix_kv",
    families=EVERY_FAMILY,
    defaults={"learning_rate": 1e-2, "weight_decay": 0.0},
    fields=(
        _n_virtual_tokens(20, "How many vectors the network makes."),
        Field(name="encoder", label="Prompt encoder", kind="choice", default="lstm", choices=("lstm", "mlp"),
              advanced=True, help="The paper's bidirectional LSTM, or an MLP: faster, often as good."),
        Field(name="encoder_width", label="Encoder width", kind="int", default=128, low=8, high=8192, advanced=True,
              help="Width of the network's hidden layers."),
        Field(name="encoder_layers", label="LSTM layers", kind="int", default=2, low=1, high=4, advanced=True,
              help="Depth of the LSTM; the MLP always has two hidden layers."),
        Field(name="encoder_dropout", label="Encoder dropout", kind="float", default=0.0, low=0, high=0.9,
              advanced=True, help="Dropout between the layers of the LSTM."),
    ),
)  # fmt: skip

PREFIX_TUNING = Method(
    name="prefix_tuning",
    label="Prefix-tuning",
    glyph="t-prefix",
    summary="Trains keys and values at the start of every layer's attention.",
    wins="Generation with a fixed style or format; steers every layer and still shares the frozen model.",
    costs="Layers times as large as prompt tuning; sensitive to the learning rate.",
    paper="Li and Liang 2021, Prefix-Tuning: Optimizing Continuous Prompts for Generation",
    arxiv="2101.00190",
    form="prefix_kv",
    families=EVERY_FAMILY,
    defaults={"learning_rate": 3e-2, "weight_decay": 0.0},
    fields=(
        _n_virtual_tokens(20, "How many positions of trained keys and values every layer gets."),
        Field(name="projection", label="Reparameterize", kind="bool", default=False, advanced=True,
              help="Train through the paper's MLP, which steadies learning; only its output is kept."),
        Field(name="projection_width", label="MLP width", kind="int", default=512, low=8, high=8192, advanced=True,
              help="Width of that MLP."),
    ),
)  # fmt: skip
