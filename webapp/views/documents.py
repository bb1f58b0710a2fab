"""Pages of documents: upload, text with chunks, versions, the original file. The routes are in views/collections.py."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from ml.errors import ColdframeError, NotFoundError
from webapp import storage
from webapp.document_files import limit_bytes
from webapp.forms.collections import UploadForm
from webapp.models import Collection, Document, DocumentVersion
from webapp.policy import policy
from webapp.selectors import passages
from webapp.services import collections as services

MOST_OFFSET = 1 << 31


def _collection(request: HttpRequest, pk: int) -> Collection:
    found = Collection.objects.for_team(request.team).filter(pk=pk).first()
    if found is None:
        raise NotFoundError(f"There is no collection {pk} in this team.", hint="It may have been deleted.")
    return found


def _document(request: HttpRequest, pk: int, document_pk: int) -> Document:
    found = (
        Document.objects.for_team(request.team)
        .select_related("collection")
        .filter(pk=document_pk, collection_id=pk, collection__team=request.team)
        .first()
    )
    if found is None:
        raise NotFoundError(f"There is no document {document_pk} in this collection.")
    if found.is_deleted:
        raise NotFoundError(
            f"{found.title} was deleted from this collection.", hint="Answers that cited it keep the cited text."
        )
    return found


def _version(document: Document, asked: Any) -> DocumentVersion:
    """The version with this id, else the live one, else the newest."""
    versions = document.versions.select_related("run", "created_by")
    if asked is not None:
        number = passages.whole_number(asked, low=1, high=1 << 62)
        found = versions.filter(pk=number).first() if number else None
        if found is None:
            raise NotFoundError(f"{document.title} has no version {str(asked)[:20]!r}.")
        return found
    live = versions.filter(state=DocumentVersion.State.LIVE).first()
    found = live or versions.first()
    if found is None:
        raise NotFoundError(f"{document.title} has no content.")
    return found


def _mark(request: HttpRequest) -> tuple[int, int] | None:
    start = passages.whole_number(request.GET.get("start"), low=0, high=MOST_OFFSET)
    end = passages.whole_number(request.GET.get("end"), low=1, high=MOST_OFFSET)
    return (start, end) if start is not None and end is not None and start < end else None


def _page(request: HttpRequest, document: Document, *, status: int = 200, **extra: Any) -> HttpResponse:
    version, mark = _version(document, request.GET.get("version")), _mark(request)
    part = passages.whole_number(request.GET.get("part"), low=1, high=1_000_000)
    context = {
        "document": document, "collection": document.collection, "version": version, "mark": mark,
        "passages": passages.passages_of(version, mark=mark, part=part),
        "versions": list(document.versions.select_related("created_by").defer("text", "pages")),
        "limit_mb": limit_bytes() // 1_000_000, "n_characters": len(version.text), "upload_form": UploadForm(),
        "may_write": request.principal.may("member"),
    }  # fmt: skip
    return render(request, "collections/document.html", context | extra, status=status)


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int, document_pk: int) -> HttpResponse:
    return _page(request, _document(request, pk, document_pk))


def add_and_tell(
    request: HttpRequest, collection: Collection, files: list[Any], document: Document | None = None
) -> services.Added:
    """Adds files and says in toasts what became of each. Raises DataError when none was taken."""
    added = services.documents_add(
        collection=collection, user=request.user, files=[(file.name, file) for file in files], document=document
    )
    if added.versions:
        names = ", ".join(version.filename for version in added.versions[:3])
        more = f" and {len(added.versions) - 3} more" if len(added.versions) > 3 else ""
        messages.success(request, f"Being read: {names}{more}.")
    for sentence in added.same[:5]:
        messages.info(request, sentence)
    for error in added.refused[:5]:
        messages.error(request, f"{error.message} {error.hint}")
    return added


@policy("member")
@require_POST
def add(request: HttpRequest, pk: int) -> HttpResponse:
    from webapp.views.collections import page

    collection, form = _collection(request, pk), UploadForm(request.POST, request.FILES)
    if not form.is_valid():
        return page(request, collection, upload_form=form, status=400)
    try:
        add_and_tell(request, collection, form.cleaned_data["files"])
    except ColdframeError as error:
        form.add_error("files", f"{error.message} {error.hint}")
        return page(request, collection, upload_form=form, status=error.status)
    return redirect("collections:detail", pk)


@policy("member")
@require_POST
def replace(request: HttpRequest, pk: int, document_pk: int) -> HttpResponse:
    document, form = _document(request, pk, document_pk), UploadForm(request.POST, request.FILES)
    if form.is_valid() and len(form.cleaned_data["files"]) != 1:
        form.add_error("files", f"A new version is one file, got {len(form.cleaned_data['files'])}.")
    if not form.is_valid():
        return _page(request, document, upload_form=form, status=400)
    try:
        add_and_tell(request, document.collection, form.cleaned_data["files"], document)
    except ColdframeError as error:
        form.add_error("files", f"{error.message} {error.hint}")
        return _page(request, document, upload_form=form, status=error.status)
    return redirect("collections:document", pk, document_pk)


@policy("member")
@require_POST
def again(request: HttpRequest, pk: int, document_pk: int) -> HttpResponse:
    document = _document(request, pk, document_pk)
    run = services.document_read_again(document=document, user=request.user)
    messages.success(request, f"{document.title} is read again in run #{run.pk}.")
    return redirect("collections:detail", pk)


@policy("member")
@require_POST
def delete(request: HttpRequest, pk: int, document_pk: int) -> HttpResponse:
    document = _document(request, pk, document_pk)
    services.document_delete(document=document, user=request.user)
    messages.success(request, f"{document.title} is deleted; no answer uses it from now on.")
    return redirect("collections:detail", pk)


@policy("viewer")
@require_GET
def original(request: HttpRequest, pk: int, document_pk: int) -> HttpResponseBase:
    """The file as it was uploaded, always as a download: a browser must not render what a stranger wrote."""
    version = _version(_document(request, pk, document_pk), request.GET.get("version"))
    path = storage.path_of(version.storage_key)
    response = FileResponse(
        path.open("rb"), as_attachment=True, filename=version.filename, content_type="application/octet-stream"
    )
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return response
