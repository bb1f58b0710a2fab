"""study.json: what the figures of a study depend on beside its cells. No result without it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from ml.data.rows import Dataset
from ml.specs.study import StudySpec

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors", "numpy", "sacrebleu")
_ROOT = Path(__file__).resolve().parent.parent.parent


def surroundings(device: str) -> dict[str, Any]:
    """Libraries, machine and the code's own version."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    machine = {
        "processor": processor(), "cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total, "system": platform.platform(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
    }  # fmt: skip
    return {"versions": versions, "machine": machine, "commit": commit()}


def processor() -> str:
    """The processor's name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Of the working tree, where there is one."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=_ROOT, capture_output=True, text=True, timeout=5, check=True
        )
        return done.stdout.strip()
    return ""


def about_study(
    spec: StudySpec, dataset: Dataset, *, fingerprint: str, command: str, started_at: str, seconds: float,
    overhead_s: float, spent: Mapping[str, float], device: str,
) -> dict[str, Any]:  # fmt: skip
    return {
        "spec": spec.as_dict(), "task": dataset.kind or dataset.task, "labels": list(dataset.labels),
        "n_rows": {split: len(rows) for split, rows in dataset.splits.items()},
        "most_common": _most_common(dataset), "base_fingerprint": fingerprint, "dataset_sha256": spec.dataset_sha256,
        "command": command, "started_at": started_at, "seconds": round(seconds, 1),
        "overhead_s": round(overhead_s, 2), "spent_s": {kind: round(value, 1) for kind, value in spent.items()},
        **surroundings(device),
    }  # fmt: skip


def _most_common(dataset: Dataset) -> dict[str, Any] | None:
    """The training rows' most common label, and the share of test rows that it would get right."""
    train, test = dataset.splits["train"], dataset.splits["test"]
    if not dataset.labels or not train or not test:
        return None
    counts: dict[str, int] = {}
    for row in train:
        counts[row.completion] = counts.get(row.completion, 0) + 1
    label = max(counts, key=lambda name: (counts[name], name))
    return {"label": label, "share": sum(row.completion == label for row in test) / len(test)}
