"""Writes on documents: add files to a collection, replace a document, delete one.

Guarantees: one bad file among several is refused by name and the others are taken; the same bytes are one document of a
collection; a name that is there already gets a new version, which goes live only when it has been read; a deleted
document is out of every search at once. Reading and embedding happen in an ingest run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from django.db import transaction
from django.db.models import Max

from ml.errors import ColdframeError, DataError
from webapp import storage
from webapp.document_files import as_stream, check_file, safe_name, sha256_of, size_of
from webapp.models import Chunk, Collection, Document, DocumentVersion, Run
from webapp.services.runs import run_submit
from webapp.services.teams import audit

State = DocumentVersion.State


@dataclass(kw_only=True)
class Added:
    """What became of the files of one upload."""

    versions: list[DocumentVersion] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    """Sentences about files that are in the collection already."""
    refused: list[ColdframeError] = field(default_factory=list)
    run: Run | None = None
    """The ingest run that reads the new versions; None when there is nothing new."""


@dataclass(frozen=True, kw_only=True)
class _File:
    name: str
    stream: IO[bytes]
    sha256: str
    n_bytes: int


def _checked(files: Sequence[tuple[str, bytes | IO[bytes]]], added: Added) -> list[_File]:
    """The files that may come in, stored by content; the others go to `added.refused`."""
    good = []
    for given, content in files:
        name, stream = safe_name(given), as_stream(content)
        try:
            check_file(name, stream)
        except DataError as error:
            added.refused.append(error)
            continue
        sha256, n_bytes = sha256_of(stream), size_of(stream)
        storage.put_file(stream, f"documents/{sha256}")
        good.append(_File(name=name, stream=stream, sha256=sha256, n_bytes=n_bytes))
    return good


def _newest_with(collection: Collection, sha256: str) -> DocumentVersion | None:
    """The version with these bytes, if it is a document's newest one."""
    versions = DocumentVersion.objects.filter(
        document__collection=collection, document__is_deleted=False, sha256=sha256
    ).select_related("document")
    for version in versions:
        if not version.document.versions.filter(number__gt=version.number).exists():
            return version
    return None


def _add_one(collection: Collection, user: Any, file: _File, document: Document | None, added: Added) -> None:
    known = _newest_with(collection, file.sha256)
    if known is not None and known.state != State.REFUSED:
        is_itself = known.document.title == file.name
        what = "exactly as it is" if is_itself else f"under the name {known.document.title}"
        added.same.append(f"{file.name} is in this collection already, {what}.")
        return
    if known is not None:
        if known not in added.versions:
            added.versions.append(known)
        return
    owner = document or collection.documents.filter(title=file.name, is_deleted=False).first()
    if owner is None:
        owner = Document.objects.create(
            team=collection.team, collection=collection, title=file.name, created_by=user
        )  # fmt: skip
    newest = owner.versions.aggregate(newest=Max("number"))["newest"] or 0
    added.versions.append(
        DocumentVersion.objects.create(
            team=collection.team, created_by=user, document=owner, number=newest + 1, sha256=file.sha256,
            filename=file.name, size_bytes=file.n_bytes,
        )
    )  # fmt: skip


def ingest_submit(*, collection: Collection, user: Any, versions: Sequence[DocumentVersion], title: str) -> Run:
    """A run that reads and embeds these versions with the collection's settings as they are now."""
    spec = {
        "kind": Run.Kind.INGEST.value,
        "collection_id": collection.pk,
        "chunk": {"size": collection.chunk_size, "overlap": collection.chunk_overlap},
        "embedder": collection.embedder,
        "documents": [
            {"id": version.pk, "source": version.storage_key, "filename": version.filename} for version in versions
        ],
    }
    return run_submit(team=collection.team, user=user, kind=Run.Kind.INGEST, spec=spec, title=title)


def versions_wait_for(*, run: Run, versions: Sequence[DocumentVersion]) -> None:
    """Says that `run` is going to read versions that are not live yet."""
    ids = [version.pk for version in versions]
    DocumentVersion.objects.filter(pk__in=ids).exclude(state=State.LIVE).update(
        run=run, state=State.WAITING, error=None
    )


def documents_add(
    *, collection: Collection, user: Any, files: Sequence[tuple[str, bytes | IO[bytes]]],
    document: Document | None = None,
) -> Added:  # fmt: skip
    """Takes files (name, bytes or open file) in and submits their reading. `document`: they are its new version.

    Raises DataError when no file at all could be taken; otherwise `refused` says which could not and why.
    """
    if not files:
        raise DataError("No file was chosen.", hint="Choose one or more files to add.", field="files")
    added = Added()
    good = _checked(files, added)
    if not good:
        raise _all_refused(added.refused)
    with transaction.atomic():
        Collection.objects.select_for_update().get(pk=collection.pk)
        for file in good:
            _add_one(collection, user, file, document, added)
        if added.versions:
            names = added.versions[0].filename if len(added.versions) == 1 else f"{len(added.versions)} documents"
            added.run = ingest_submit(
                collection=collection, user=user, versions=added.versions, title=f"{names} → {collection.name}"
            )
            versions_wait_for(run=added.run, versions=added.versions)
            audit(team=collection.team, user=user, action="document.add", subject=collection, n=len(added.versions))
    return added


@transaction.atomic
def document_read_again(*, document: Document, user: Any) -> Run:
    """Reads the newest version once more, e.g. after it was refused because a part of the product was away."""
    newest = document.versions.first()
    if newest is None:
        raise DataError(f"{document.title} has no content.", hint="Add the file again.", status=409)
    run = ingest_submit(
        collection=document.collection, user=user, versions=[newest], title=f"{document.title}, once more"
    )  # fmt: skip
    versions_wait_for(run=run, versions=[newest])
    return run


def _all_refused(errors: Sequence[ColdframeError]) -> ColdframeError:
    if len(errors) == 1:
        return errors[0]
    worst = max(errors, key=lambda error: error.status)
    return DataError(
        " ".join(error.message for error in errors), hint=worst.hint, code=worst.code, status=worst.status
    )  # fmt: skip


@transaction.atomic
def document_delete(*, document: Document, user: Any) -> None:
    """Takes the document out of every search at once, and its text out of the database.

    Its vectors go with the next sweep of the reconciler; messages that cited it keep what they cited.
    """
    if not Document.objects.filter(pk=document.pk, is_deleted=False).update(is_deleted=True):
        return
    Chunk.objects.filter(version__document=document).delete()
    document.versions.update(text="", pages=[])
    audit(team=document.team, user=user, action="document.delete", subject=document)
