"""Checkpoints of a run: everything needed to go on as if nothing had happened.

A checkpoint is a folder `checkpoints/step-<n>` of safetensors and JSON: trainable weights, optimizer state, the state
of every random number generator, the step (which is the sampler's position and the schedule's) and what was measured
so far; manifest.json, written last, has the hashes of the files, of the spec and of the data. The newest two are kept;
a damaged one is passed over for the older. On the same machine and thread count a resumed CPU run is bit-identical to
an undisturbed one. Nothing of the frozen base is kept.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ml.errors import SpecError
from ml.files import first_damage, staged_folder, stamp, write_json

KEEP = 2
_SCHEMA = 1


@dataclass(kw_only=True)
class Progress:
    """What a run remembers besides tensors; goes into state.json as it is."""

    step: int = 0
    """Optimizer steps done."""
    elapsed_s: float = 0.0
    evaluated_step: int = -1
    """The last step after which the validation rows were measured."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Every eval so far, without samples."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a checkpoint belongs to."""

    spec_sha256: str
    data_sha256: str
    base_fingerprint: str


def trainables(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def folder_of(workdir: Path, step: int) -> Path:
    return workdir / "checkpoints" / f"step-{step:08d}"


def save(
    workdir: Path, *, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, identity: Identity
) -> tuple[Path, int]:
    """Writes the checkpoint of `progress.step` and drops all but the newest two. Returns its folder and bytes."""
    final = folder_of(workdir, progress.step)
    for leftover in final.parent.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with staged_folder(final) as staged:
        weights = {name: p.detach().contiguous().cpu() for name, p in trainables(model).items()}
        save_file(weights, staged / "trainables.safetensors")
        save_file(_optimizer_tensors(optimizer, list(weights)), staged / "optimizer.safetensors")
        save_file(_rng_tensors(), staged / "rng.safetensors")
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.state_dict()["param_groups"]]
        write_json(staged / "state.json", {"progress": vars(progress), "groups": groups, "rng": _rng_values()})
        write_json(staged / "manifest.json", {"schema": _SCHEMA, **vars(identity), "files": stamp(staged)})
        n_bytes = sum(path.stat().st_size for path in staged.iterdir())
    for old in _newest_first(workdir)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return final, n_bytes


def _newest_first(workdir: Path) -> list[Path]:
    return sorted((workdir / "checkpoints").glob("step-*"), reverse=True)


def restore(
    workdir: Path,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Identity,
    on_damage: Callable[[str], None],
) -> Progress | None:
    """Puts the newest undamaged checkpoint into model, optimizer and generators; None when there is none.

    `on_damage` is told about each one passed over. Raises SpecError when the checkpoints belong to another spec, data
    set or base model.
    """
    for folder in _newest_first(workdir):
        damage = _damage(folder)
        if damage:
            on_damage(f"checkpoint {folder.name} is damaged: {damage}; trying the one before")
            continue
        _check_identity(folder, identity)
        return _load(folder, model, optimizer)
    return None


def _damage(folder: Path) -> str:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return first_damage(folder, manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"manifest.json cannot be read ({type(error).__name__})"


def _check_identity(folder: Path, identity: Identity) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name, expected in vars(identity).items():
        if manifest.get(name) != expected:
            what = name.removesuffix("_sha256").replace("_", " ")
            raise SpecError(
                f"{folder} belongs to another run: its {what} is {manifest.get(name)}, this run's is {expected}.",
                hint="Use a new work folder for a changed spec, data set or base model.",
            )


def _load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    saved = load_file(folder / "trainables.safetensors")
    parameters = trainables(model)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    slots: dict[int, dict[str, Tensor]] = {}
    names = list(parameters)
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        name, _, slot = key.rpartition("/")
        slots.setdefault(names.index(name), {})[slot] = tensor
    places = optimizer.state_dict()["param_groups"]
    groups = [
        {**saved_group, "params": now["params"]} for saved_group, now in zip(state["groups"], places, strict=True)
    ]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    _set_rng(load_file(folder / "rng.safetensors"), state["rng"])
    return Progress(**state["progress"])


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{slot}": value.detach().clone().contiguous().cpu()
        for index, slots in state.items()
        for slot, value in slots.items()
    }


def _rng_tensors() -> dict[str, Tensor]:
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors


def _rng_values() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }


def _set_rng(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    cuda = [tensors[name] for name in sorted(tensors) if name.startswith("cuda")]
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = values["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
