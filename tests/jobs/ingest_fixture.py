"""Ingest output as `python -m ml ingest` writes it, with vectors that tests choose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from webapp.models import Collection, Run
from webapp.services.collections import documents_add

DIMENSION = 8


def axis(place: int, *, towards: int | None = None, share: float = 0.0) -> list[float]:
    """A unit vector along one axis, turned by `share` towards another."""
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[place] = 1.0
    if towards is not None:
        vector[towards] = share
    found: list[float] = (vector / np.linalg.norm(vector)).tolist()
    return found


def write_output(out: Path, documents: Mapping[int, Sequence[tuple[str, Sequence[float]]] | dict[str, Any]]) -> Path:
    """`documents`: version id → its chunks as (text, vector), or an error."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for version_id, chunks in documents.items():
        if isinstance(chunks, dict):
            found: dict[str, Any] = {"error": chunks}
        else:
            text, rows = "", []
            for number, (piece, _) in enumerate(chunks, start=1):
                rows.append({"number": number, "text": piece, "start": len(text), "end": len(text) + len(piece),
                             "page": None, "n_tokens": len(piece.split())})  # fmt: skip
                text += piece + "\n"
            found = {"text": text, "pages": [], "note": "", "chunks": rows}
            tensors[str(version_id)] = np.array([vector for _, vector in chunks], dtype=np.float32)
        (out / f"{version_id}.json").write_text(json.dumps(found))
    save_file(tensors, out / "vectors.safetensors")
    return out


def ingested(
    collection: Collection,
    folder: Path,
    files: Mapping[str, Sequence[tuple[str, Sequence[float]]]],
    *,
    user: Any = None,
) -> Run:
    """Adds files to the collection and publishes them with these chunks, as a worker would."""
    added = documents_add(
        collection=collection, user=user, files=[(name, repr(chunks).encode()) for name, chunks in files.items()]
    )
    assert added.run is not None
    documents = {version.pk: files[version.filename] for version in added.versions}
    publish(added.run, write_output(folder / f"run-{added.run.pk}", documents))
    return added.run


def publish(run: Run, out: Path) -> None:
    """Vectors first, then the rows, then the run is over."""
    from jobs import vectors
    from webapp.services.collections import ingest_publish

    vectors.publish(run, out)
    ingest_publish(run=run, out=out)
    Run.objects.filter(pk=run.pk).update(state=Run.State.SUCCEEDED)
