"""A trained adapter as a folder: what plain `peft` loads, plus manifest.json which says where it comes from.

Guarantees: safetensors and JSON only (a folder with any other data file is refused); written whole or not at all; the
manifest lists a sha256 for every file and is itself the identity of the artifact; equal training gives equal bytes. The
base model is named, never a path. What PEFT has no form for is kept as `ml.weights` (changed weights) and `ml.heads`
(a classifier head) document it. Limits: the base model itself is not in the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ml.backbone import Backbone, sha256_of
from ml.errors import ArtifactError
from ml.files import first_damage, staged_folder, stamp, write_json
from ml.specs import METHODS, TrainSpec, serving_form

MANIFEST = "manifest.json"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FILES = {
    "peft": (CONFIG, WEIGHTS),
    "weights": ("weights_config.json", "model_delta.safetensors"),
    "head": ("head_config.json", "head.safetensors"),
}
"""Configuration and tensors of each kind of storage (`Method.storage`)."""
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """manifest.json, checked."""

    schema: int
    method: str
    form: str
    """Serving form: how the engine carries it."""
    base: dict[str, str]
    """`name` and `fingerprint`."""
    dataset: dict[str, str]
    """`name` and `sha256`."""
    spec: dict[str, Any]
    seed: int
    versions: dict[str, str]
    metrics: dict[str, float]
    """Of the adapter on the test split (validation when there is no test split)."""
    files: dict[str, dict[str, Any]]
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Every measurement of the run: step, split, subject, metrics, intervals, n_rows."""
    family: str = "decoder"
    """Of the base model."""
    labels: list[str] = field(default_factory=list)
    """In the order of the outputs, where the adapter has a classifier of its own."""

    @property
    def storage(self) -> str:
        return METHODS[self.method].storage


def write_artifact(
    final: Path,
    *,
    model: Any,
    backbone: Backbone,
    spec: TrainSpec,
    metrics: Mapping[str, float],
    evaluations: list[dict[str, Any]],
) -> Manifest:
    """Saves `model`'s adapter as the folder `final`. Equal inputs give equal bytes, whenever and wherever written."""
    storage = METHODS[spec.method].storage
    with staged_folder(final) as staged:
        _write(staged, model, backbone, storage)
        card = _card(spec, backbone, metrics, n_bytes=(staged / FILES[storage][1]).stat().st_size)
        (staged / "README.md").write_text(card, encoding="utf-8")
        manifest = Manifest(
            schema=SCHEMA,
            method=spec.method,
            form=serving_form(spec),
            base={"name": backbone.name, "fingerprint": backbone.fingerprint},
            dataset={"name": spec.dataset, "sha256": spec.dataset_sha256},
            spec=spec.as_dict(),
            seed=spec.seed,
            versions=versions(),
            metrics=dict(metrics),
            evaluations=evaluations,
            family=backbone.family,
            labels=list(backbone.labels),
            files=stamp(staged),
        )
        write_json(staged / MANIFEST, asdict(manifest))
    return manifest


def _write(folder: Path, model: Any, backbone: Backbone, storage: str) -> None:
    if storage == "peft":
        _write_peft(folder, model, backbone.name)
    elif storage == "weights":
        from ml.weights import save_delta

        save_delta(model, folder, backbone.name)
    else:
        from ml.heads import save_head

        save_head(model, folder, backbone.name)


def _write_peft(folder: Path, model: Any, base_name: str) -> None:
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    model.eval()  # P-tuning's network may drop some of what it is asked to save otherwise
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: state[name].detach().clone().contiguous().cpu() for name in sorted(state)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in model.active_peft_config.to_dict().items()}
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    write_json(folder / CONFIG, json.loads(json.dumps(config, default=str)))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft")}


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _card(spec: TrainSpec, backbone: Backbone, metrics: Mapping[str, float], *, n_bytes: int) -> str:
    method = METHODS[spec.method]
    measured = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items()) or "| – | – |"
    shown = {k: v for k, v in {**spec.as_dict(), **spec.options}.items() if k not in ("options", "dataset_sha256")}
    settings = "\n".join(f"| {name} | {_cell(value)} |" for name, value in shown.items())
    title = " ".join(spec.dataset.split())
    return f"""---
library_name: peft
base_model: {json.dumps(backbone.name)}
tags:
- {spec.method.replace("_", "-")}
- coldframe
---

# {method.label} on {title}

{method.summary} Trained by Coldframe on the frozen base model `{backbone.name}`
(fingerprint `{backbone.fingerprint[:16]}`); {n_bytes:,} bytes of weights.

Method: {method.paper} (arXiv {method.arxiv}). It wins: {method.wins} It costs: {method.costs}

| metric | value |
|---|---|
{measured}

| setting | value |
|---|---|
{settings}

Prompts go through the base model's own chat template. manifest.json has the data set's hash, the library versions and
a sha256 for every file here.
"""


def read_manifest(folder: Path) -> Manifest:
    """manifest.json of `folder`. Raises ArtifactError when it is missing, damaged or of a newer schema."""
    path = Path(folder) / MANIFEST
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if given["schema"] != SCHEMA:
            raise ArtifactError(
                f"{MANIFEST} has schema {given['schema']!r}, this version reads {SCHEMA}.", hint="Update Coldframe."
            )
        manifest = Manifest(**given)
        shaped = isinstance(manifest.files, dict) and isinstance(manifest.base, dict) and "fingerprint" in manifest.base
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{MANIFEST} cannot be read: {error}.", hint="Train or upload the adapter again."
        ) from error
    if not shaped or manifest.method not in METHODS:
        raise ArtifactError(f"{MANIFEST} does not describe a known adapter, method {manifest.method!r}.")
    return manifest


def verify(folder: Path) -> Manifest:
    """The manifest, after checking every file. Raises ArtifactError naming the file that is damaged or not listed."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    damage = first_damage(folder, manifest.files)
    listed = {*manifest.files, MANIFEST}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in listed)
    if not damage and foreign:
        damage = f"{foreign[0]} is not in its manifest"
    if not damage and (missing := {*FILES[manifest.storage]} - listed):
        damage = f"{min(missing)} is not in its manifest"
    if damage:
        raise ArtifactError(
            f"The adapter is damaged: {damage}.", hint="Publish it again from its run, or train it again."
        )
    return manifest


def artifact_id(folder: Path) -> str:
    """sha256 (hex) of manifest.json's bytes, which names every other file's hash."""
    return sha256_of(Path(folder) / MANIFEST)


def spec_sha256(spec: TrainSpec) -> str:
    """sha256 (hex) of the spec as sorted JSON."""
    return hashlib.sha256(json.dumps(spec.as_dict(), sort_keys=True).encode()).hexdigest()


def load_adapter(backbone: Backbone, folder: Path) -> Any:
    """`backbone.model` with the adapter in `folder` on it, ready to answer.

    Raises ArtifactError when the folder is damaged or made for another base model. Changed weights are put into
    `backbone.model` itself.
    """
    manifest = verify(folder)
    if manifest.base["fingerprint"] != backbone.fingerprint:
        made_for = f"{manifest.base.get('name')} ({manifest.base['fingerprint'][:12]})"
        raise ArtifactError(
            f"The adapter was trained on {made_for}, not on {backbone.name} ({backbone.fingerprint[:12]}).",
            hint="Use it with the base model that it was trained on.",
        )
    model = _load(backbone, Path(folder), manifest.storage)
    return model.eval()


def _load(backbone: Backbone, folder: Path, storage: str) -> Any:
    if storage == "peft":
        from peft import PeftModel

        return PeftModel.from_pretrained(backbone.model, str(folder))
    if storage == "weights":
        from ml.weights import load_delta

        return load_delta(backbone, folder)
    from ml.heads import load_head

    return load_head(backbone, folder)
