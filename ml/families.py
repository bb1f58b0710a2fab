"""Which family a base model belongs to, and which models are refused, from the configuration alone.

Light: reads config.json, imports neither torch nor a model. Guarantees: a model that would be computed wrongly (a past
that is not every token's keys and values, weights that are quantized already, code in the folder) is refused with what
is in the way. Does not look at weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml.errors import ModelError

FAMILIES = ("decoder", "encoder", "encoder_decoder")
_ENCODERS = ("bert", "roberta", "distilbert", "electra", "deberta", "deberta-v2", "mpnet", "albert", "xlm-roberta")
_ENCODER_DECODERS = (
    "t5", "mt5", "umt5", "bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot", "blenderbot-small", "plbart",
)  # fmt: skip
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "mpnet")
_ARTICLES = {"decoder": "a decoder", "encoder": "an encoder", "encoder_decoder": "an encoder-decoder"}


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelError when it is no JSON object."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}.", hint="Fetch the model again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not a JSON object.", hint="Fetch the model again.")
    return config


def family_of(folder: Path) -> str:
    """`decoder`, `encoder` or `encoder_decoder`, from the configuration alone. Raises ModelError for anything else."""
    config = read_config(Path(folder))
    if family := family_of_config(config):
        return family
    kind = config.get("model_type")
    raise ModelError(
        f"{Path(folder).name} is a {kind!r} model, which cannot be used.",
        hint="Use a language model that transformers knows by itself: a decoder (Llama or GPT kind), an encoder (BERT "
        "kind) or an encoder-decoder (T5 or BART kind). Models that bring code are refused.",
        field="base",
    )


def family_of_config(config: dict[str, Any]) -> str:
    """The family that a configuration's values say; "" for none that is known."""
    kind = config.get("model_type")
    if "auto_map" not in config:
        if kind in _ENCODER_DECODERS and config.get("is_encoder_decoder", True):
            return "encoder_decoder"
        if kind in _ENCODERS and not config.get("is_encoder_decoder"):
            return "encoder"
        if not config.get("is_encoder_decoder") and _is_causal(kind):
            return "decoder"
    return ""


def reads_plain_text(folder: Path) -> bool:
    """Whether the model in `folder` is an encoder or encoder-decoder, which have no chat template; imports nothing."""
    return read_config(Path(folder)).get("model_type") in (*_ENCODERS, *_ENCODER_DECODERS)


def _is_causal(kind: Any) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in _ENCODER_DECODERS


def check_family(name: str, family: str, families: tuple[str, ...]) -> None:
    """Raises ModelError when the model called `name` is of a family that the caller cannot use."""
    if family not in families:
        raise ModelError(
            f"{name} is {_ARTICLES[family]} model.",
            hint=f"What was asked for needs {' or '.join(_ARTICLES[f] for f in families)} language model.",
            field="base",
        )


def check_supported(name: str, family: str, config: Any) -> None:
    """Raises ModelError for a transformers configuration that cannot be computed rightly here."""
    if (done := getattr(config, "quantization_config", None)) is not None:
        method = done.get("quant_method", "unknown") if isinstance(done, dict) else "unknown"
        raise ModelError(
            f"{name} is already quantized ({method}), which cannot be used.",
            hint="Use the model's original weights; QLoRA quantizes them by itself while loading.",
            field="base",
        )
    if family == "decoder":
        _check_attention(name, config)
    if family == "encoder_decoder" and getattr(config, "decoder_start_token_id", None) is None:
        raise ModelError(
            f"{name} does not say which token an answer starts with: decoder_start_token_id is missing.",
            hint="Set decoder_start_token_id in the model's config.json.",
            field="base",
        )


def _check_attention(name: str, config: Any) -> None:
    """Refuses models whose past is not the keys and values of every token: shared prefixes would be wrong there."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and not getattr(config, "layer_types", None):
        kinds.add(f"a sliding window of {window}")
    if getattr(config, "num_kv_shared_layers", 0):
        kinds.add("layers that share keys and values")
    if not getattr(config, "num_attention_heads", 0):
        kinds.add("no attention")
    if kinds:
        raise ModelError(
            f"{name} is a {config.model_type} model with {', '.join(sorted(kinds))}, which cannot be used yet.",
            hint="Use a decoder with full attention in every layer, such as Llama, Qwen2 or GPT-2.",
            field="base",
        )


def n_positions(config: Any) -> int | None:
    """How many tokens a transformers model has positions for; None when they are relative and without end.

    `max_position_embeddings` counts, for the RoBERTa kind, the places up to the padding token that no token can have.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    if config.model_type in _POSITIONS_AFTER_PADDING:
        padding = 1 if config.model_type == "mpnet" else int(config.pad_token_id)
        return positions - padding - 1
    return positions
