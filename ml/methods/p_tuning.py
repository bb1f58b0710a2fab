"""P-tuning (Liu et al. 2021, arXiv 2103.10385, section 3.2): virtual tokens that come out of a small trained network.

The network is the paper's bidirectional LSTM with an MLP behind it, or an MLP alone, over trained inputs; as in PEFT,
where it comes from NVIDIA NeMo. What is kept of it is its output, so the artifact is that of prompt tuning. Deviation:
the vectors stand in front of the input (the paper: at chosen places of a template). An encoder-decoder gets them in
front of the encoder's input; an encoder's new classifier is trained beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PromptEncoderConfig
from peft.tuners.p_tuning import PromptEncoderReparameterizationType

from ml.backbone import Backbone
from ml.errors import SpecError
from ml.methods import task_type
from ml.methods.common import in_front_of, put_on

_MLP_LAYERS = 2


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone with a network that gives `n_virtual_tokens` vectors. `seed` is already set by the caller.

    Raises SpecError for dropout between the layers of an LSTM that has one layer.
    """
    lstm, n_layers, dropout = options["encoder"] == "lstm", int(options["encoder_layers"]), options["encoder_dropout"]
    if lstm and n_layers == 1 and dropout:
        raise SpecError(
            f"Encoder dropout works between the LSTM's layers; it is {dropout}, but there is one layer.",
            hint="Give the LSTM two layers, or set the dropout to 0.",
            field="encoder_dropout",
        )
    kind = PromptEncoderReparameterizationType
    config = PromptEncoderConfig(
        task_type=task_type(backbone),
        num_virtual_tokens=int(options["n_virtual_tokens"]),
        **in_front_of(backbone),
        encoder_reparameterization_type=kind.LSTM if lstm else kind.MLP,
        encoder_hidden_size=int(options["encoder_width"]),
        encoder_num_layers=n_layers if lstm else _MLP_LAYERS,
        encoder_dropout=float(dropout) if lstm else 0.0,
    )
    return put_on(backbone, config)
