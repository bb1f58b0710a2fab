"""What several methods need: a model's linear layers by name, and putting a PEFT adapter on a backbone.

The linear layers are those that may be changed: never the output layer of a language model, never an encoder's
classifier (which is new, and trained whole beside any adapter). Nothing here reads weights, so all of it works on the
meta device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ml.backbone import Backbone
from ml.errors import SpecError
from ml.methods import task_type


def put_on(backbone: Backbone, config: PeftConfig) -> Any:
    """The backbone's model with the adapter that `config` describes, trainable, everything else frozen.

    An encoder's classifier is trained beside it in float32, whatever the model computes in.
    """
    model: Any = get_peft_model(backbone.model, config)
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for trained in module.modules_to_save.values():
                trained.register_forward_pre_hook(_to_own_type)
    return model


def _to_own_type(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """16-bit features for float32 weights."""
    dtype = next(module.parameters()).dtype
    return tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def linear_layers(backbone: Backbone) -> dict[str, nn.Module]:
    """The model's linear layers by full name, in the order of the forward pass; Conv1D (GPT-2) and 4-bit ones too."""
    model = backbone.model
    output = model.get_output_embeddings()
    inside = f"{model.base_model_prefix}." if backbone.family == "encoder" and backbone.labels else ""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not output and name.startswith(inside)
    }


def attention_layers(backbone: Backbone) -> dict[str, nn.Module]:
    """The linear layers inside modules whose class is called an attention: self-attention and cross-attention."""
    modules = backbone.model.named_modules()
    within = tuple(f"{name}." for name, module in modules if name and "Attention" in type(module).__name__)
    return {name: module for name, module in linear_layers(backbone).items() if name.startswith(within)}


def short_names(layers: Mapping[str, nn.Module]) -> str:
    """The different last parts of the layers' names, as people write them."""
    return ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in layers))


def low_rank(backbone: Backbone, options: Mapping[str, Any], *, dora: bool = False) -> Any:
    """The backbone with LoRA's B A beside the layers that the option `targets` names.

    Raises SpecError when a name there is not a linear layer of the model.
    """
    layers = _chosen(backbone, str(options["targets"]))
    config = LoraConfig(
        task_type=task_type(backbone),
        r=int(options["rank"]),
        lora_alpha=float(options["alpha"]),  # type: ignore[arg-type]
        lora_dropout=float(options["dropout"]),
        use_rslora=bool(options["rslora"]),
        use_dora=dora,
        target_modules=list(layers),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in layers.values()),
    )
    return put_on(backbone, config)


def _chosen(backbone: Backbone, targets: str) -> dict[str, nn.Module]:
    layers = linear_layers(backbone)
    names = list(dict.fromkeys(name.strip() for name in targets.split(",") if name.strip()))
    if names == ["all-linear"]:
        return layers
    if names == ["attention"]:
        return _some_attention(backbone)
    if not names:
        raise SpecError(f"No layer is named in {targets!r}.", hint=_hint(layers), field="targets")
    for name in names:
        if not any(_is_called(full, name) for full in layers):
            raise SpecError(f"{backbone.name} has no linear layer {name!r} to change.", hint=_hint(layers),
                            field="targets")  # fmt: skip
    return {full: module for full, module in layers.items() if any(_is_called(full, name) for name in names)}


def _some_attention(backbone: Backbone) -> dict[str, nn.Module]:
    found = attention_layers(backbone)
    if not found:
        raise SpecError(
            f"The attention layers of {backbone.name} cannot be told from the others.",
            hint=_hint(linear_layers(backbone)),
            field="targets",
        )
    return found


def _is_called(full: str, name: str) -> bool:
    return full == name or full.endswith(f".{name}")


def _hint(layers: Mapping[str, nn.Module]) -> str:
    return f"Write all-linear, attention, or some of: {short_names(layers)}."


def in_front_of(backbone: Backbone) -> dict[str, Any]:
    """What PEFT must know of a model to put vectors in front of its input; it finds that by itself for some only.

    One set of vectors: PEFT would make a second one for an encoder-decoder's decoder and never use it.
    """
    config = backbone.model.config
    return {
        "num_transformer_submodules": 1,
        "token_dim": int(backbone.model.get_input_embeddings().embedding_dim),
        "num_layers": int(config.num_hidden_layers),
        "num_attention_heads": int(config.num_attention_heads),
    }


def sampled_vocabulary(backbone: Backbone, n_tokens: int, seed: int) -> list[int]:
    """`n_tokens` ids drawn from the whole vocabulary without control tokens; any ids on the meta device."""
    generator = torch.Generator().manual_seed(seed)
    if backbone.model.device.type == "meta":
        return [0] * n_tokens
    n_rows = backbone.model.get_input_embeddings().weight.shape[0]
    control = set(backbone.tokenizer.all_special_ids)
    usable = [i for i in range(min(len(backbone.tokenizer), n_rows)) if i not in control]
    return [usable[i] for i in torch.randint(len(usable), (n_tokens,), generator=generator).tolist()]


@torch.no_grad()
def embedded(backbone: Backbone, ids: list[int]) -> Tensor:
    """What the model's first layers get for `ids`: float32 [n, D] on the CPU, scaled as the model scales (Gemma)."""
    embed = backbone.model.get_input_embeddings()
    vectors: Tensor = embed(torch.tensor(ids, device=embed.weight.device))
    return vectors.float().cpu()
