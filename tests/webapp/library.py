"""Rows of the team library for tests: measured versions without a training run's work."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from webapp.models import AdapterVersion, Dataset, DatasetVersion, Run, Team
from webapp.services.adapters import adapter_publish


def measured(value: float, low: float, high: float, n_rows: int = 150) -> dict[str, Any]:
    return {"accuracy": value, "intervals": {"accuracy": [low, high]}, "n_rows": n_rows}


def dataset_version(team: Team, name: str = "questions", number: int = 1) -> DatasetVersion:
    dataset, _ = Dataset.objects.get_or_create(team=team, name=name)
    version, _ = DatasetVersion.objects.get_or_create(
        team=team, dataset=dataset, number=number,
        defaults={"sha256": hashlib.sha256(f"{name}{number}".encode()).hexdigest(), "task": "classification"},
    )  # fmt: skip
    return version


def evaluation(block: dict[str, Any], subject: str, split: str = "test") -> dict[str, Any]:
    """A measurement as the trainer writes it."""
    metrics = {name: value for name, value in block.items() if name not in ("intervals", "n_rows")}
    return {"step": 4, "split": split, "subject": subject, "metrics": metrics, "intervals": block["intervals"],
            "n_rows": block["n_rows"]}  # fmt: skip


def artifact(
    folder: Path, *, evaluations: list[dict[str, Any]], method: str = "lora", **files: bytes
) -> dict[str, Any]:
    """A small artifact folder; returns its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 10, "README.md": b"# Card\n"}
    content |= {name.replace("__", "."): data for name, data in files.items()}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    manifest = {
        "schema": 1, "method": method, "form": "lora_delta", "base": {"name": "tiny", "fingerprint": "f" * 64},
        "dataset": {}, "spec": {"steps": 4, "batch_size": 2}, "seed": 17, "versions": {"peft": "0.21.0"},
        "metrics": {}, "evaluations": evaluations,
        "files": {n: {"sha256": hashlib.sha256(d).hexdigest(), "bytes": len(d)} for n, d in content.items()},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def published(
    team: Team, folder: Path, *, name: str = "triage", test: dict[str, Any] | None = None,
    plain: dict[str, Any] | None = None, data: DatasetVersion | None = None, user: Any = None, **files: bytes,
) -> AdapterVersion:  # fmt: skip
    """A version as the publishing job makes it, its files in the storage."""
    from webapp import storage

    measurements = [evaluation(block, subject) for block, subject in ((plain, "plain"), (test, "adapter")) if block]
    manifest = artifact(folder, evaluations=measurements, **files)
    run = Run.objects.create(
        team=team, created_by=user, kind=Run.Kind.TRAIN, title=name, spec={"adapter": name}, fence=1,
        state=Run.State.PUBLISHING, dataset_version=data or dataset_version(team),
        result={"seconds": 61.0, "peak_bytes": 2_000_000, "n_trainable": 1234},
    )  # fmt: skip
    version = adapter_publish(run=run, out=folder, manifest=manifest, fence=1)
    storage.put_folder(folder, version.storage_key)
    return version
