"""`python -m ml plan SPEC --models DIR`: the memory that a run will need, by part, before anything is loaded.

A model folder with nothing but its configuration is enough. The table goes to standard error; the line on standard
output is {"event": "plan", ... bytes by part, total, device, free, verdict, remedies}. `--serve` answers one question
a line on standard input, {"id", "spec", "remedies", ...} or {"id", "study", ...} (ml.study.planning), with one such
line that bears its id, or with {"event": "plan", "id", "error"}; it ends with its input. Free is what this machine has
now.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from ml.backbone import model_folder
from ml.cli_train import dtype_for, read_spec
from ml.devices import device_named
from ml.errors import ColdframeError, SpecError
from ml.families import check_supported, family_of
from ml.plan import Plan, free_bytes, plan, verdict
from ml.plan.remedies import remedies
from ml.specs import METHODS, TrainSpec, check_fits, train_spec

_FIGURES = ("longest", "n_shared", "n_targets", "labels")
_WORDS = {"fits": "fits", "tight": "tight", "does_not_fit": "does not fit"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, nargs="?", help="the training spec, a JSON or YAML file")
    parser.add_argument("--models", type=Path, required=True, help="the models folder")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="what would train")
    parser.add_argument("--labels", type=int, default=0, help="labels of a classification; 0: free answers")
    parser.add_argument("--longest", type=int, default=None, help="tokens of the longest row, where that is known")
    parser.add_argument("--json", action="store_true", help="no table")
    parser.add_argument("--serve", action="store_true", help="answer the questions on standard input, line by line")


def run(args: argparse.Namespace) -> int:
    device = device_named(args.device)
    if args.serve:
        return _serve(args, device)
    if args.spec is None:
        raise SpecError("No spec was given.", hint="Give a JSON or YAML file, or --serve.", field="spec")
    known = {"labels": args.labels, "longest": args.longest}
    said = planned(read_spec(args.spec), models=args.models, device=device, known=known, wants_remedies=True)
    if not args.json:
        sys.stderr.write(table(said) + "\n")
    args.emit("plan", **said)
    return 0


def _serve(args: argparse.Namespace, device: str) -> int:
    torch.set_num_threads(1)
    for line in sys.stdin:
        question: Any = json.loads(line)
        try:
            said = _answer(question, models=args.models, device=device)
        except ColdframeError as error:
            said = {"error": error.as_dict()}
        except Exception as error:  # the next question may be answerable
            said = {"error": ColdframeError(f"The plan failed: {type(error).__name__}: {error}.").as_dict()}
        args.emit("plan", id=question["id"], **said)
    return 0


def _answer(question: Mapping[str, Any], *, models: Path, device: str) -> dict[str, Any]:
    if "study" in question:
        from ml.study.planning import study_plan

        return study_plan(question, models=models, device=device)
    known = {name: question.get(name) for name in _FIGURES if question.get(name) is not None}
    return planned(
        train_spec(question["spec"]), models=models, device=device, known=known,
        wants_remedies=bool(question.get("remedies")),
    )  # fmt: skip


def planned(
    spec: TrainSpec, *, models: Path, device: str, known: Mapping[str, Any], wants_remedies: bool
) -> dict[str, Any]:
    """The plan as an event's values. `known` of the data: labels, longest, n_shared, n_targets.

    Raises ModelError for a base that is not there, SpecError for what the technique or the model cannot have.
    """
    folder = model_folder(models, spec.base)
    config, family = _config(folder), family_of(folder)
    labels = int(known.get("labels") or 0)
    check_fits(METHODS[spec.method], family=family, task="classification" if labels else "generation")

    def again(changed: TrainSpec) -> Plan:
        dtype = dtype_for(changed, device)
        return plan(changed, config, device=device, dtype=dtype, family=family, **known)

    needed, free = again(spec), free_bytes(device)
    said = {**needed.as_dict(), "device": device, "free": free, "verdict": verdict(needed, free)}
    if not wants_remedies:
        return said
    fits = said["verdict"] == "fits"
    found = [] if fits else remedies(spec, needed, free, device=device, again=again)
    return said | {"remedies": [remedy.as_dict() for remedy in found]}


@lru_cache(maxsize=32)
def _config(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    check_supported(folder.name, family_of(folder), config)
    return config


def table(said: Mapping[str, Any]) -> str:
    """The plan for people: parts in MB, the verdict, the remedies."""
    parts = [name for name in Plan.__dataclass_fields__ if said.get(name)]
    lines = [f"{name:12} {said[name] / 1e6:14,.1f} MB" for name in (*parts, "total")]
    free, word = said["free"] / 1e6, _WORDS[said["verdict"]]
    lines.append(f"{'free':12} {free:14,.1f} MB on {said['device']}: {word}")
    for remedy in said.get("remedies", ()):
        lines.append(f"- {remedy['text']} ({remedy['saved'] / 1e6:,.1f} MB less: {_WORDS[remedy['verdict']]})")
    return "\n".join(lines)
