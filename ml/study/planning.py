"""The plan of a study before it starts: seconds and memory of every technique, and which fit its budget.

For the warm planner process (`python -m ml plan --serve`), which has no rows, only what is known of them. Seconds are
those of all of the machine's cores; a calibration, measured ÷ expected of earlier work, corrects them. Memory is that
of `ml.plan`, with every row as long as the longest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from ml.backbone import model_folder
from ml.cli_train import dtype_for
from ml.errors import ColdframeError
from ml.families import family_of
from ml.plan import free_bytes, plan, verdict
from ml.specs import METHODS
from ml.specs.study import TECHNIQUES, StudySpec, study_spec
from ml.specs.tasks import learnt_as
from ml.study.budget import Cost
from ml.study.estimate import Rows, Speed, chosen_within, costs_of, shape_of, speed_of, total_s
from ml.study.training import spec_for


def study_plan(question: Mapping[str, Any], *, models: Path, device: str) -> dict[str, Any]:
    """`question`: study (a spec), task, rows (fields of ml.study.estimate.Rows), longest, n_labels, calibration.

    Gives `techniques` by cost, each with its seconds by part, `total_s`, `is_chosen`, and where it is trained `peak`
    bytes and `verdict`; `total_s` of the chosen ones; `free` bytes. Raises SpecError or ModelError.
    """
    task = str(question["task"])
    folder = model_folder(models, str(question["study"].get("base")))
    family = family_of(folder)
    spec = study_spec(question["study"], task=task, family=family)
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    shape = shape_of(config, family=family)
    costs = costs_of(spec, shape=shape, speed=_all_cores(speed_of(device, shape.width), device),
                     rows=Rows(**question["rows"]))  # fmt: skip
    factor = float(question.get("calibration") or 1)
    costs = {name: Cost(**{part: factor * value for part, value in vars(cost).items()}) for name, cost in costs.items()}
    chosen, _ = chosen_within(spec, costs, spec.budget_s)
    free = free_bytes(device)
    found = []
    for name in sorted(costs, key=lambda name: total_s(spec, name, costs[name])):
        memory = _memory(spec, name, config, question, family, device, free) if name in METHODS else {}
        found.append({"technique": name, "label": TECHNIQUES[name].label, **vars(costs[name]),
                      "total_s": total_s(spec, name, costs[name]), "is_chosen": name in chosen, **memory})  # fmt: skip
    whole = sum(one["total_s"] for one in found if one["is_chosen"])
    return {"techniques": found, "total_s": whole, "budget_s": spec.budget_s, "free": free, "device": device}


def _all_cores(speed: Speed, device: str) -> Speed:
    """The planner probes with the threads that it has; a study has all cores."""
    if device.startswith("cuda"):
        return speed
    n = len(os.sched_getaffinity(0)) / torch.get_num_threads()
    return Speed(flops=speed.flops * max(1.0, n), bandwidth=speed.bandwidth)


def _memory(
    spec: StudySpec, name: str, config: Any, question: Mapping[str, Any], family: str, device: str, free: int
) -> dict[str, Any]:
    """Peak and verdict of a technique's training; the reason where it cannot be planned."""
    train, n_labels = spec_for(spec, name, seed=spec.seeds[0]), int(question.get("n_labels") or 0)
    try:
        needed = plan(
            train, config, device=device, dtype=dtype_for(train, device), family=family,
            labels=n_labels if learnt_as(str(question["task"])) == "classification" else 0,
            longest=question.get("longest"),
        )  # fmt: skip
    except ColdframeError as error:
        return {"problem": error.message}
    return {"peak": needed.total, "verdict": verdict(needed, free)}
