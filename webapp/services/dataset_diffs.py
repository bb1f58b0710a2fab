"""What changed between two versions of a data set, found once by a child process and kept: versions never change."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings

from webapp import storage
from webapp.models import DatasetVersion
from webapp.reading import read_in_child

TIMEOUT_S = 120
SCHEMA = 1
"""Raised when what is kept changes its shape."""


def diff_key(old: DatasetVersion, new: DatasetVersion) -> str:
    return f"diffs/{SCHEMA}-{old.sha256[:32]}-{new.sha256[:32]}.json"


def diff_find(*, old: DatasetVersion, new: DatasetVersion) -> dict[str, Any]:
    """Counts and examples of rows added, removed, changed and moved. Raises ColdframeError for files that are gone."""
    key = diff_key(old, new)
    if not storage.exists(key):
        spec = {"kind": "diff", "old": str(storage.path_of(old.storage_key)),
                "new": str(storage.path_of(new.storage_key))}  # fmt: skip
        Path(settings.RUNS_DIR).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=settings.RUNS_DIR) as folder:
            made = read_in_child(spec=spec, workdir=Path(folder), timeout_s=TIMEOUT_S)
            storage.put_file(io.BytesIO(made.read_bytes()), key)
    found: dict[str, Any] = json.loads(storage.path_of(key).read_text(encoding="utf-8"))
    return found
