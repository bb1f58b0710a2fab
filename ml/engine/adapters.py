"""From an artifact's folder to something that rows can carry. Loaded on first use, kept while memory allows.

Reads what plain peft writes, `adapter_config.json` and `adapter_model.safetensors`, and classifier heads (ml.heads). Of
an adapter that changes the model itself only the manifest is checked here; ml.engine.own loads it. Guarantees: a
damaged artifact, one for another base model, one with values that are not finite, or one of a kind that the engine
cannot serve is refused by name, and only the rows that asked for it fail. Never reads pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ml.artifact import FILES, Manifest, artifact_id, verify
from ml.backbone import Backbone
from ml.engine.cache import heads_of
from ml.engine.lora import Delta
from ml.engine.scales import Scale
from ml.engine.serving import Base
from ml.engine.sites import Changes, sizes_of
from ml.errors import ArtifactError
from ml.heads import HeadModel, load_head
from ml.specs import why_not_served

EMBEDDING_KINDS = ("PROMPT_TUNING", "P_TUNING")
_UNSERVED_LORA = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication",
                  "target_parameters", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config",
                  "kasa_config", "velora_config", "monteclora_config")  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapter:
    """A task's trained part, checked, on the model's device and in its dtype."""

    artifact: str
    """sha256 of the manifest."""
    form: Literal["prefix_kv", "lora_delta", "scale", "head", "own_backbone"]
    embeddings: Tensor | None = None
    """[p, width]: prompt tuning and P-tuning; the prefix is what the model makes of them."""
    prefix: Tensor | None = None
    """[layers, 2, kv heads, p, head width]: prefix-tuning; the keys are used as they are, without rotation."""
    changes: Changes | None = None
    """What it does to layers: LoRA and IA3."""
    head: HeadModel | None = None
    """A classifier of the final states; such a row answers with a label."""
    folder: Path | None = None
    """Of an adapter that needs a model of its own."""
    file_bytes: int = 0
    """Size of that adapter's tensors on the disk."""

    @property
    def prefix_tokens(self) -> int:
        if self.embeddings is not None:
            return int(self.embeddings.shape[0])
        return int(self.prefix.shape[3]) if self.prefix is not None else 0

    @cached_property
    def n_bytes(self) -> int:
        """In memory beside the model; an own model's bytes are counted where it is."""
        tensors = [t for t in (self.embeddings, self.prefix) if t is not None]
        for change in (self.changes or {}).values():
            tensors += [change.a, change.b] if isinstance(change, Delta) else [change.factors]
        tensors += self.head.state_dict().values() if self.head is not None else []
        return sum(t.numel() * t.element_size() for t in tensors)


def check_artifact(folder: Path, *, artifact: str, base: Base) -> Manifest:
    """The manifest in `folder`, whose sha256 must be `artifact`, made for the very weights of `base`. Raises
    ArtifactError."""
    if not folder.is_dir():
        raise ArtifactError(f"Adapter {artifact[:12]} is not in the storage.", hint="Train or upload it again.")
    manifest = verify(folder)
    if (found := artifact_id(folder)) != artifact:
        raise ArtifactError(
            f"Adapter {artifact[:12]} has been changed: its manifest's hash is {found[:12]}.",
            hint="Restore the storage from a backup, or train it again.",
        )
    if reason := why_not_served(manifest.form, manifest.family):
        raise ArtifactError(
            f"Adapter {artifact[:12]} is not served in chat yet: {reason}",
            hint="It can be downloaded and used with its own library; its README.md says how.",
        )
    made_for = manifest.base
    if made_for["fingerprint"] != base.fingerprint:
        raise ArtifactError(
            f"Adapter {artifact[:12]} was made for {made_for['name']} ({made_for['fingerprint'][:12]}); this engine "
            f"serves {base.name} ({base.fingerprint[:12]}).",
            hint="An adapter fits only the very weights that it was trained on. Train it for this base model.",
        )
    return manifest


def load_adapter(folder: Path, artifact: str, *, backbone: Backbone) -> Adapter:
    """The adapter in `folder`, whose manifest must have the sha256 `artifact`. Raises ArtifactError."""
    manifest = check_artifact(folder, artifact=artifact, base=backbone)
    if manifest.form == "own_backbone":
        size = (folder / FILES[manifest.storage][1]).stat().st_size
        return Adapter(artifact=artifact, form="own_backbone", folder=folder, file_bytes=size)
    if manifest.form == "head":
        return Adapter(artifact=artifact, form="head", head=_head(folder, backbone, artifact))
    return _shared(folder, artifact, backbone)


def _shared(folder: Path, artifact: str, backbone: Backbone) -> Adapter:
    config, tensors = read_peft(folder, artifact)
    kind = str(config.get("peft_type"))
    if kind in EMBEDDING_KINDS:
        return Adapter(artifact=artifact, form="prefix_kv", embeddings=_embeddings(tensors, backbone, artifact))
    if kind == "PREFIX_TUNING":
        return Adapter(artifact=artifact, form="prefix_kv", prefix=_prefix(tensors, backbone, artifact))
    if kind == "LORA":
        return Adapter(artifact=artifact, form="lora_delta", changes=_deltas(config, tensors, backbone, artifact))
    if kind == "IA3":
        return Adapter(artifact=artifact, form="scale", changes=_scales(tensors, backbone, artifact))
    raise _unserved(artifact, f"of kind {kind}")


def _unserved(artifact: str, what: str) -> ArtifactError:
    return ArtifactError(
        f"Adapter {artifact[:12]} is {what}, which the engine cannot serve in one batch with others.",
        hint="It serves prompt tuning, P-tuning, prefix-tuning, IA3 and LoRA (without DoRA, biases or whole modules).",
    )


def _misfit(artifact: str, name: str, shape: object, wanted: object) -> ArtifactError:
    return ArtifactError(f"Adapter {artifact[:12]}: {name} has shape {shape}, the base model needs {wanted}.")


def read_peft(folder: Path, artifact: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors as plain peft wrote them. Raises ArtifactError."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"Adapter {artifact[:12]} cannot be read: {error}.") from error
    check_finite(tensors, artifact)
    return config, tensors


def check_finite(tensors: Mapping[str, Tensor], artifact: str) -> None:
    """Raises ArtifactError naming the tensor with values that are none."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(
                f"Adapter {artifact[:12]}: {name} holds NaN or infinite values.",
                hint="Its training diverged. Train it again with a lower learning rate.",
            )


def _head(folder: Path, backbone: Backbone, artifact: str) -> HeadModel:
    head = load_head(backbone, folder)
    check_finite(head.state_dict(), artifact)
    return head


def _to(tensor: Tensor, backbone: Backbone) -> Tensor:
    return tensor.to(device=backbone.model.device, dtype=backbone.model.dtype).contiguous()


def prompt_of(tensors: Mapping[str, Tensor], artifact: str) -> Tensor:
    """The trained prompt among what peft wrote. Raises ArtifactError."""
    if "prompt_embeddings" not in tensors:
        raise ArtifactError(f"Adapter {artifact[:12]} has no prompt_embeddings in its weights.")
    return tensors["prompt_embeddings"]


def _embeddings(tensors: Mapping[str, Tensor], backbone: Backbone, artifact: str) -> Tensor:
    prompt, width = prompt_of(tensors, artifact), backbone.model.get_input_embeddings().embedding_dim
    if prompt.dim() != 2 or prompt.shape[1] != width:
        raise _misfit(artifact, "prompt_embeddings", tuple(prompt.shape), f"(tokens, {width})")
    return _to(prompt, backbone)


def _prefix(tensors: Mapping[str, Tensor], backbone: Backbone, artifact: str) -> Tensor:
    """PEFT's layout is [p, 2·layers·heads·width]; layer i has its keys at 2i and its values at 2i + 1."""
    prompt = prompt_of(tensors, artifact)
    n_layers, n_heads, width = heads_of(backbone.model.config)
    if prompt.dim() != 2 or prompt.shape[1] != 2 * n_layers * n_heads * width:
        wanted = f"(tokens, {2 * n_layers * n_heads * width})"
        raise _misfit(artifact, "prompt_embeddings", tuple(prompt.shape), wanted)
    return _to(prompt.view(-1, n_layers, 2, n_heads, width).permute(1, 2, 3, 0, 4), backbone)


def check_lora(config: Mapping[str, Any], artifact: str) -> None:
    """Raises ArtifactError for a LoRA that is more than low-rank additions to linear layers."""
    for name in _UNSERVED_LORA:
        if config.get(name):
            raise _unserved(artifact, f"a LoRA with {name}")
    if config.get("bias", "none") != "none":
        raise _unserved(artifact, f"a LoRA with bias={config['bias']}")


def _deltas(config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone, artifact: str) -> Changes:
    check_lora(config, artifact)
    names = sorted(key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight"))
    if not names or 2 * len(names) != len(tensors):
        odd = [key for key in tensors if ".lora_A.weight" not in key and ".lora_B.weight" not in key]
        raise _unserved(artifact, f"a LoRA with {odd[0]}" if odd else "a LoRA without weights")
    modules = dict(backbone.model.named_modules())
    deltas = {}
    for key in names:
        name, sizes = _layer(key, modules, artifact)
        a, b = tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"]  # [r, I], [O, r]
        if (a.shape[1], b.shape[0], b.shape[1]) != (*sizes, a.shape[0]):
            raise _misfit(artifact, name, (tuple(a.shape), tuple(b.shape)), f"{sizes[0]} → {sizes[1]}")
        deltas[name] = Delta(_to(a, backbone), _to(b.float().t() * _scaling(config, name, a.shape[0]), backbone))
    return deltas


def _scales(tensors: Mapping[str, Tensor], backbone: Backbone, artifact: str) -> Changes:
    """PEFT keeps a feed-forward layer's scales, which are for its inputs, as [1, I] and those of outputs as [O, 1]."""
    modules = dict(backbone.model.named_modules())
    scales = {}
    for key, factors in tensors.items():
        if not key.endswith(".ia3_l"):
            raise _unserved(artifact, f"an IA3 with {key}")
        name, (n_in, n_out) = _layer(key.removesuffix(".ia3_l"), modules, artifact)
        if tuple(factors.shape) not in ((1, n_in), (n_out, 1)):
            raise _misfit(artifact, name, tuple(factors.shape), f"(1, {n_in}) or ({n_out}, 1)")
        is_inputs = factors.shape[0] == 1
        scales[name] = Scale(_to(factors.flatten(), backbone), "inputs" if is_inputs else "outputs")
    if not scales:
        raise _unserved(artifact, "an IA3 without weights")
    return scales


def _layer(key: str, modules: Mapping[str, Any], artifact: str) -> tuple[str, tuple[int, int]]:
    """The name of the linear layer that a saved tensor belongs to, and its (inputs, outputs)."""
    name = key.removeprefix("base_model.model.")
    sizes = sizes_of(modules[name]) if name in modules else None
    if sizes is None:
        raise ArtifactError(f"Adapter {artifact[:12]}: the base model has no linear layer {name}.")
    return name, sizes


def _scaling(config: Mapping[str, Any], name: str, rank: int) -> float:
    pattern: dict[str, float] = config.get("alpha_pattern") or {}
    alpha = float(config["lora_alpha"])
    if pattern:
        # Only here: importing peft costs an engine seconds of its start.
        from peft.utils.other import get_pattern_key

        alpha = float(pattern.get(get_pattern_key(list(pattern), name), alpha))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
