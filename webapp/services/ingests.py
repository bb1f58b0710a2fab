"""What an ingest run leaves behind: texts and chunks into the database, versions live or refused.

Guarantees: to be called inside the transaction that ends the run, so that new chunks go live and old ones go in one
step, or nothing changes; publishing the same output again gives the same rows. The vectors are stored before, by
`jobs.vectors.publish`. A document that was deleted or replaced meanwhile never comes back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.db import transaction

from ml.errors import ColdframeError, DataError
from webapp.models import Chunk, DocumentVersion, Run

State = DocumentVersion.State
_CHUNK_FIELDS = ("number", "text", "page", "start", "end", "n_tokens")


def _output_of(out: Path, version: DocumentVersion) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((out / f"{version.pk}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"The run's output for {version.filename} cannot be read: {error}.", hint="Run it again.")
    return found


def _refuse(version: DocumentVersion, error: dict[str, Any]) -> None:
    # A re-index that cannot read a document any more leaves its live version as it was.
    DocumentVersion.objects.filter(pk=version.pk).exclude(state=State.LIVE).update(state=State.REFUSED, error=error)


def _go_live(version: DocumentVersion, run: Run, found: dict[str, Any]) -> None:
    """Chunks, text and state of one version; the version that was live before is replaced."""
    others = DocumentVersion.objects.filter(document_id=version.document_id).exclude(pk=version.pk)
    is_newest = not others.filter(number__gt=version.number, state=State.LIVE).exists()
    Chunk.objects.filter(version=version).delete()
    Chunk.objects.bulk_create(
        [
            Chunk(team_id=version.team_id, version=version, **{name: chunk[name] for name in _CHUNK_FIELDS})
            for chunk in found["chunks"]
        ],
        batch_size=500,
    )
    note = ColdframeError(found["note"], code="note").as_dict() if found.get("note") else None
    DocumentVersion.objects.filter(pk=version.pk).update(
        text=found["text"], pages=found["pages"], n_chunks=len(found["chunks"]), run=run, error=note,
        state=State.LIVE if is_newest else State.REPLACED,
    )  # fmt: skip
    if is_newest:
        others.filter(state=State.LIVE).update(state=State.REPLACED)


@transaction.atomic
def ingest_publish(*, run: Run, out: Path) -> dict[str, int]:
    """Switches the run's documents over. Raises DataError when the output is not whole."""
    ids = [document["id"] for document in run.spec["documents"]]
    versions = DocumentVersion.objects.filter(team_id=run.team_id, pk__in=ids, document__is_deleted=False)
    n_live = n_refused = n_chunks = 0
    for version in versions.select_related("document").defer("text"):
        found = _output_of(out, version)
        if error := found.get("error"):
            _refuse(version, error)
            n_refused += 1
            continue
        _go_live(version, run, found)
        n_live, n_chunks = n_live + 1, n_chunks + len(found["chunks"])
    return {"n_documents": n_live, "n_refused": n_refused, "n_chunks": n_chunks}


def ingest_run_over(*, run: Run) -> None:
    """The run ended without success: documents that waited for it say so, and can be read again."""
    error = run.error
    if error is None:
        error = ColdframeError(
            "Reading was cancelled before this document was done.", hint="Press Read again.", code="cancelled"
        ).as_dict()
    waiting = DocumentVersion.objects.filter(run=run, state__in=(State.WAITING, State.READING))
    waiting.update(state=State.REFUSED, error=error)
