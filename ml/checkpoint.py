"""Checkpoints of a run: everything needed to go on as if nothing had happened.

A checkpoint is a folder `checkpoints/step-<n>` of safetensors and JSON: trainable weights, optimizer state, the step
(data order, learning rate and random numbers are functions of it) and what was measured so far; manifest.json, written
last, has the hashes of the files, of the spec and of the data. The newest two are kept; a damaged one is passed over
for the older. On the same machine and thread count a resumed CPU run is bit-identical to an undisturbed one.
Beside them `best/` holds the weights of the best look at the validation rows. Nothing of the frozen base is kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    micro_batch_size: int = 1
    """Rows at once; less than the spec's after running out of memory."""
    has_ended: bool = False
    """Whether the run ended early."""
    watch: dict[str, Any] = field(default_factory=dict)
    """`ml.watch.Watch` as a dictionary."""


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
        weights = _weights(model)
        save_file(weights, staged / "trainables.safetensors")
        save_file(_optimizer_tensors(optimizer, list(weights)), staged / "optimizer.safetensors")
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.state_dict()["param_groups"]]
        write_json(staged / "state.json", {"progress": vars(progress), "groups": groups})
        write_json(staged / "manifest.json", {"schema": _SCHEMA, **vars(identity), "files": stamp(staged)})
        n_bytes = sum(path.stat().st_size for path in staged.iterdir())
    for old in _newest_first(workdir)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    _drop_other_bests(workdir, int(progress.watch.get("best_step", -1)))
    return final, n_bytes


def _best_folder(workdir: Path, step: int) -> Path:
    return workdir / "best" / f"step-{step:08d}"


def save_best(workdir: Path, step: int, model: torch.nn.Module) -> None:
    """Keeps the trainable weights as those of the best look so far; the one before goes with the next checkpoint."""
    with staged_folder(_best_folder(workdir, step)) as staged:
        save_file(_weights(model), staged / "trainables.safetensors")


def load_best(workdir: Path, step: int, model: torch.nn.Module) -> None:
    """Puts the weights that `save_best` kept for `step` into the model."""
    _put(load_file(_best_folder(workdir, step) / "trainables.safetensors"), model)


def _drop_other_bests(workdir: Path, best_step: int) -> None:
    for folder in (workdir / "best").glob("*"):
        if best_step >= 0 and folder != _best_folder(workdir, best_step):
            shutil.rmtree(folder, ignore_errors=True)


def _weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().contiguous().cpu() for name, p in trainables(model).items()}


def _put(saved: dict[str, Tensor], model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in trainables(model).items():
            parameter.copy_(saved[name])


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
    _put(load_file(folder / "trainables.safetensors"), model)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    slots: dict[int, dict[str, Tensor]] = {}
    names = list(trainables(model))
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        name, _, slot = key.rpartition("/")
        slots.setdefault(names.index(name), {})[slot] = tensor
    places = optimizer.state_dict()["param_groups"]
    groups = [
        {**saved_group, "params": now["params"]} for saved_group, now in zip(state["groups"], places, strict=True)
    ]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    return Progress(**state["progress"])


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{slot}": value.detach().clone().contiguous().cpu()
        for index, slots in state.items()
        for slot, value in slots.items()
    }
