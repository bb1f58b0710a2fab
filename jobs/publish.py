"""From a finished child's folder to rows in the database: files first, by content, then one fenced transaction.

Guarantees: nothing is half registered. The folder is checked against its own hashes and put into the storage under its
content's name; only then does one transaction end the run and write the noun's rows, and it is undone when the lease
was lost meanwhile. Doing it twice gives the same rows. Which service publishes which kind is one table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from django.db import transaction

from jobs.batch import prepare_batch
from jobs.evaluation import prepare_evaluation
from jobs.exchange import prepare_export
from jobs.study import prepare_study
from ml.errors import ArtifactError, DataError
from webapp.models import Run
from webapp.services.run_leases import Claim, run_finish

PUBLISHERS = {
    "train": ("webapp.services.adapters", "adapter_publish"),
    "ingest": ("webapp.services.collections", "ingest_publish"),
    "validate": ("webapp.services.datasets", "version_publish"),
    "import": ("webapp.services.exchange", "import_publish"),
    "export": ("webapp.services.exchange", "export_publish"),
    "evaluate": ("webapp.services.evaluations", "evaluation_publish"),
    "study": ("webapp.services.studies", "study_publish"),
    "batch": ("webapp.services.batches", "batch_publish"),
}
FENCED = ("train", "import")
"""Kinds whose publishing service is given the claim's fencing number."""
KEPT = ("metrics", "peak_bytes", "seconds", "n_trainable", "notices", "url")
"""What of the `finished` event becomes the run's result."""
CHUNK_BYTES = 1 << 20


def publish(*, claim: Claim, out: Path, finished: dict[str, Any]) -> None:
    """Registers what the run made. Raises LostLeaseError when the run is someone else's, ArtifactError when damaged."""
    from webapp import storage

    run = Run.objects.select_related("team", "created_by", "dataset_version").get(pk=claim.run_id)
    key, values = PREPARERS[run.kind](run, out)
    if key:
        storage.put_folder(out, key)
    result = {name: finished[name] for name in KEPT if name in finished}
    with transaction.atomic():
        run_finish(claim=claim, result=result)
        run.refresh_from_db()
        service(run.kind)(run=run, out=out, **values, **({"fence": claim.fence} if run.kind in FENCED else {}))


def service(kind: str) -> Callable[..., Any]:
    """The noun's publishing service, imported only when one is published."""
    module, name = PUBLISHERS[kind]
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read_json(path: Path, kind: type[ArtifactError] | type[DataError]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise kind(f"{path.name} of the finished run cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise kind(f"{path.name} of the finished run is no object.")
    return value


def _prepare_artifact(run: Run, out: Path) -> tuple[str, dict[str, Any]]:
    """Every file must be what the manifest says it is."""
    manifest = _read_json(out / "manifest.json", ArtifactError)
    for name, about in manifest.get("files", {}).items():
        path = out / name
        if not path.is_file() or sha256_of(path) != about["sha256"]:
            raise ArtifactError(
                f"{name} is not what the manifest says: it is damaged or missing.", hint="Check the disk, then retry."
            )
    return f"artifacts/{sha256_of(out / 'manifest.json')}", {"manifest": manifest}


def _prepare_dataset(run: Run, out: Path) -> tuple[str, dict[str, Any]]:
    """A first look at an upload leaves a report only; a version is a folder named by its content."""
    if out.is_file():
        return "", {}
    sha256 = _read_json(out / "dataset.json", DataError).get("sha256")
    if not isinstance(sha256, str) or len(sha256) != 64:
        raise DataError(f"dataset.json of the finished run names no sha256, got {sha256!r}.")
    return f"datasets/{sha256}", {}


def _prepare_documents(run: Run, out: Path) -> tuple[str, dict[str, Any]]:
    """Vectors go into the vector store first: a search only shows those whose chunks are live in the database."""
    from jobs import vectors

    vectors.publish(run, out)
    return "", {}


PREPARERS: dict[str, Callable[[Run, Path], tuple[str, dict[str, Any]]]] = {
    "train": _prepare_artifact,
    "validate": _prepare_dataset,
    "ingest": _prepare_documents,
    "import": _prepare_artifact,
    "export": prepare_export,
    "evaluate": prepare_evaluation,
    "study": prepare_study,
    "batch": prepare_batch,
}
