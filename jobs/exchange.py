"""Runs that bring an adapter in or take one out: their commands, their environment, where their results go.

The work is done by `python -m ml import|merge|upload`. Guarantees: the hub's token reaches the child of an upload and
no other; what a run names in the storage is looked up here, never taken as a path.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.conf import settings

from ml.errors import UnavailableError
from webapp.models import Run

TO_HUB = "hub"


def is_upload(run: Run) -> bool:
    return run.kind == Run.Kind.EXPORT and run.spec.get("to") == TO_HUB


def extra_env(run: Run) -> dict[str, str]:
    """What the child of this run needs beside the common environment."""
    if not is_upload(run):
        return {}
    if not settings.HF_TOKEN:
        raise UnavailableError(
            "This server has no token for the hub any more.", hint="Ask the operator to set HF_TOKEN, then retry."
        )
    return {"HF_TOKEN": settings.HF_TOKEN, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}


def command(run: Run, folder: Path) -> list[str]:
    """The command line of an import or export whose working folder is `folder`."""
    words = [sys.executable, "-m", "ml", *(_import(run.spec) if run.kind == Run.Kind.IMPORT else _export(run, folder))]
    if not is_upload(run):
        words += ["--into", str(folder / "out")]
    return [*words, "--models", str(settings.MODELS_DIR)]


def _import(spec: dict[str, Any]) -> list[str]:
    from webapp import storage

    # The values stand after an equals sign, so that none can be taken for an option of its own.
    return [
        "import", str(storage.path_of(spec["source"])), f"--base={spec['base']}", f"--name={spec['adapter']}",
        *(f"--label={label}" for label in spec.get("labels") or []),
    ]  # fmt: skip


def _export(run: Run, folder: Path) -> list[str]:
    from webapp import storage

    adapter = str(storage.path_of(f"artifacts/{run.spec['artifact']}"))
    if not is_upload(run):
        return ["merge", "--adapter", adapter]
    flags = [flag for flag, key in (("--merged", "merged"), ("--public", "is_public")) if run.spec.get(key)]
    return ["upload", "--adapter", adapter, f"--repo={run.spec['repo']}", "--scratch", str(folder), *flags]


def prepare_export(run: Run, out: Path) -> tuple[str, dict[str, Any]]:
    """Where a merged model is kept; an upload leaves nothing here."""
    return ("" if is_upload(run) else run.spec["key"]), {}
