"""What a run's child is given: its folder, its spec.json and its command line, by kind of run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from django.conf import settings

from jobs import batch, evaluation, exchange, study
from jobs.child import thread_count
from ml.errors import ModelError
from webapp.models import Run

OWN_KEYS = ("kind", "adapter")
"""Keys of a training run's spec that are for the app, not for `ml`."""


def workdir_of(run_id: int) -> Path:
    return Path(settings.RUNS_DIR) / str(run_id)


def child_spec(run: Run) -> dict[str, Any]:
    """The run's spec as `ml` reads it."""
    from webapp import storage

    spec = dict(run.spec)
    if run.kind == Run.Kind.TRAIN:
        return {key: value for key, value in spec.items() if key not in OWN_KEYS}
    if "source" in spec:
        spec["source_path"] = str(storage.path_of(spec["source"]))
    for name in ("documents", "parts"):
        if name in spec:
            spec[name] = [
                {**{k: v for k, v in one.items() if k != "source"}, "source_path": str(storage.path_of(one["source"]))}
                for one in spec[name]
            ]
    return spec


def extra_env(run: Run) -> dict[str, str]:
    """What the child of this run needs beside the common environment."""
    if run.kind == Run.Kind.BATCH:
        return batch.extra_env()
    if run.kind == Run.Kind.STUDY:
        return study.extra_env(run)
    return evaluation.extra_env() if run.kind == Run.Kind.EVALUATE else exchange.extra_env(run)


def _check_model(name: str) -> None:
    folder = Path(settings.MODELS_DIR) / name
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The model {name!r} is not in the models folder.",
            hint="`make models` fetches the starter models; then retry.",
        )


def prepare(run: Run) -> list[str]:
    """Writes spec.json and returns the command. Raises ColdframeError when something the run needs is missing."""
    from webapp import storage

    folder = workdir_of(run.pk)
    folder.mkdir(parents=True, exist_ok=True)
    if run.kind in (Run.Kind.IMPORT, Run.Kind.EXPORT):
        return exchange.command(run, folder)
    if run.kind == Run.Kind.EVALUATE:
        return evaluation.command(run, folder)
    if run.kind == Run.Kind.BATCH:
        return batch.command(run, folder)
    if run.kind == Run.Kind.STUDY:
        _check_model(str(run.spec.get("base", "")))
        return study.command(run, folder)
    spec = child_spec(run)
    draft = folder / ".spec.json"
    draft.write_text(json.dumps(spec, ensure_ascii=False, indent=1), encoding="utf-8")
    draft.replace(folder / "spec.json")
    command = [sys.executable, "-m", "ml", run.kind, str(folder / "spec.json")]
    command += ["--workdir", str(folder), "--models", str(settings.MODELS_DIR)]
    if run.kind == Run.Kind.TRAIN:
        _check_model(spec["base"])
        command += ["--dataset", str(storage.path_of(f"datasets/{spec['dataset_sha256']}"))]
    if run.kind != Run.Kind.VALIDATE:
        command += ["--device", "auto", "--threads", str(thread_count())]
    return command
