"""The plan of a study before it starts: seconds and memory of every technique, and which fit its budget.

`study_plan` is for the warm planner process (`python -m ml plan --serve`), which has no rows but a sample of them and
what their report says; `planned` is for the study's own process. Seconds are those of all of the machine's cores, or
of the threads that the study has; what earlier studies took may correct them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from ml.backbone import model_folder
from ml.cli_train import dtype_for
from ml.data.rows import Dataset, Row
from ml.errors import ColdframeError
from ml.families import check_supported, family_of
from ml.plan import free_bytes
from ml.specs import METHODS
from ml.specs.study import TECHNIQUES, StudySpec, study_spec
from ml.study.estimate import TechniqueEstimate, estimate, fit_budget
from ml.study.figures import MOST_SAMPLED, DataFigures, figures_of
from ml.study.speed import Speed, all_cores, speed_of
from ml.study.training import spec_for

PATIENCE_S = 2.0
"""After which a question is answered with what is there: the next time the rest is counted."""
logger = logging.getLogger(__name__)


def study_plan(question: Mapping[str, Any], *, models: Path, device: str) -> dict[str, Any]:
    """`question`: study (a spec), task, data (n_rows by split, labels, sample of rows; where they are known mapping,
    lengths, and passages as a row gets them), calibration (a factor by technique).

    Gives `techniques`, the cheapest first, each a TechniqueEstimate with `label` and `is_chosen`; `chosen`, `left_out`
    (reasons), `total_s` of the chosen ones, `free` bytes; `n_done` of `n_all` techniques. Raises ColdframeError.
    """
    began = time.monotonic()
    folder = model_folder(models, str(question["study"].get("base")))
    spec = study_spec(question["study"], task=str(question["task"]), family=family_of(folder))
    model = _Model(folder)
    found = estimate(
        spec, config=model.config, family=model.family, device=device, speed=model.speed(spec, device, all_cores()),
        data=_given_figures(question, spec, model), calibration=question.get("calibration") or {},
        is_late=lambda: time.monotonic() - began > PATIENCE_S,
    )  # fmt: skip
    return {**plan_of(spec, found), "free": free_bytes(device), "device": device}


def planned(
    spec: StudySpec, folder: Path, dataset: Dataset, mapping: Mapping[str, Any], device: str, *,
    passages: Sequence[str] = (),
) -> list[TechniqueEstimate]:  # fmt: skip
    """For a study that has its rows; without memory, which each training plans by itself. Empty where the rows cannot
    be encoded: a plan is advice, and each technique will say what is wrong with them."""
    model = _Model(folder)
    try:
        data = figures_of(
            _spread(dataset.splits["train"]), spec=spec, task=dataset.kind or dataset.task, labels=dataset.labels,
            n_rows={split: len(rows) for split, rows in dataset.splits.items()}, tokenizer=model.tokenizer,
            family=model.family, mapping=mapping, passages=passages,
        )  # fmt: skip
    except ColdframeError as error:
        logger.warning("no plan for this study: %s", error.message)
        return []
    speed = model.speed(spec, device, torch.get_num_threads())
    return estimate(spec, config=model.config, family=model.family, device=device, data=data, speed=speed,
                    wants_memory=False)  # fmt: skip


def plan_of(spec: StudySpec, estimates: Sequence[TechniqueEstimate]) -> dict[str, Any]:
    """What a `plan` event says."""
    chosen, left_out = fit_budget(estimates, spec.budget_s)
    ordered = sorted(estimates, key=lambda one: one.total_s)
    whole = sum(one.total_s for one in ordered if one.technique in chosen)
    techniques = [
        {**one.as_dict(), "label": TECHNIQUES[one.technique].label, "is_chosen": one.technique in chosen}
        for one in ordered
    ]
    return {
        "techniques": techniques, "chosen": chosen, "left_out": left_out, "total_s": round(whole, 2),
        "budget_s": spec.budget_s, "n_done": len(estimates), "n_all": len(spec.techniques),
    }  # fmt: skip


class _Model:
    """What can be known of a base model without its weights."""

    def __init__(self, folder: Path) -> None:
        self.family = family_of(folder)
        self.config, self.tokenizer = _parts(folder)
        check_supported(folder.name, self.family, self.config)

    def speed(self, spec: StudySpec, device: str, threads: int) -> Speed:
        name = next(name for name, method in METHODS.items() if self.family in method.families)
        dtype = dtype_for(spec_for(spec, name, seed=spec.seeds[0]), device)
        width = int(getattr(self.config, "hidden_size", 0) or 1024)
        return speed_of(device, width, dtype=dtype, threads=threads)


@lru_cache(maxsize=32)
def _parts(folder: Path) -> tuple[Any, Any]:
    known: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    return AutoConfig.from_pretrained(folder, **known), AutoTokenizer.from_pretrained(folder, **known)


def _given_figures(question: Mapping[str, Any], spec: StudySpec, model: _Model) -> DataFigures:
    given = question["data"]
    sample = [Row(number=number, messages=row["messages"], completion=row["completion"])
              for number, row in enumerate(given["sample"], start=1)]  # fmt: skip
    return figures_of(
        sample, spec=spec, task=str(question["task"]), labels=given.get("labels") or (), n_rows=given["n_rows"],
        tokenizer=model.tokenizer, family=model.family, mapping=given.get("mapping"), lengths=given.get("lengths"),
        passages=given.get("passages") or (),
    )  # fmt: skip


def _spread(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows from all over, as many as are looked at."""
    return rows[:: max(1, len(rows) // MOST_SAMPLED)][:MOST_SAMPLED]
