"""Pages of collections: the list, a collection with its documents and settings, the retrieval test."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from jobs.stream import call_service
from ml.errors import ColdframeError, NotFoundError
from webapp.document_files import limit_bytes
from webapp.forms.collections import CollectionForm, SearchForm, SettingsForm, UploadForm
from webapp.listing import listing
from webapp.models import Collection
from webapp.policy import policy
from webapp.selectors import collections as selectors
from webapp.services import collections as services
from webapp.views import documents

SORTABLE = {"name": "title", "chunks": "n_chunks", "state": "state", "size": "size_bytes"}
SEARCH_TIMEOUT_S = 20
MORE_HITS = 4
"""Chunks shown in the retrieval test beyond those an answer would get."""


def collection_or_404(request: HttpRequest, pk: int) -> Collection:
    found = Collection.objects.for_team(request.team).filter(pk=pk).first()
    if found is None:
        raise NotFoundError(f"There is no collection {pk} in this team.", hint="It may have been deleted.")
    return found


def _index(request: HttpRequest, form: CollectionForm, *, status: int = 200) -> HttpResponse:
    found = listing(
        request, selectors.collections_of(request.team), search=("name", "description"),
        sortable={"name": "name", "made": "created_at"}, default="name",
    )  # fmt: skip
    context = {
        "listing": found, "form": form, "may_write": request.principal.may("member"),
        "limit_mb": limit_bytes() // 1_000_000, "figures": selectors.store_figures(request.team),
    }  # fmt: skip
    return render(request, "collections/index.html", context, status=status)


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return _index(request, CollectionForm())


def _refuse(form: Any, error: ColdframeError) -> int:
    """The error at its field, or over the form; returns the response's status."""
    form.add_error(error.field if error.field in form.fields else None, f"{error.message} {error.hint}".strip())
    return error.status


@policy("member")
@require_POST
def create(request: HttpRequest) -> HttpResponse:
    form = CollectionForm(request.POST, request.FILES)
    if not form.is_valid():
        return _index(request, form, status=400)
    given = form.cleaned_data
    try:
        collection = services.collection_create(
            team=request.team, user=request.user, name=given["name"], description=given["description"]
        )
    except ColdframeError as error:
        return _index(request, form, status=_refuse(form, error))
    if given["files"]:
        try:
            documents.add_and_tell(request, collection, given["files"])
        except ColdframeError as error:
            messages.error(request, f"{collection} was made, but: {error.message} {error.hint}")
    return redirect("collections:detail", collection.pk)


def page(request: HttpRequest, collection: Collection, *, status: int = 200, **extra: Any) -> HttpResponse:
    """The collection's page; `extra` replaces forms that were refused."""
    found = listing(
        request, selectors.documents_of(collection), search=("title",), sortable=SORTABLE, default="name"
    )  # fmt: skip
    context = {
        "collection": collection, "listing": found, "work": selectors.work_of(collection),
        "figures": selectors.figures_of(collection), "preview": selectors.preview_of(collection),
        "settings_form": SettingsForm.of(collection), "upload_form": UploadForm(), "search_form": SearchForm(),
        "limit_mb": limit_bytes() // 1_000_000, "may_write": request.principal.may("member"),
        "may_delete": request.principal.may("admin"),
    }  # fmt: skip
    return render(request, "collections/detail.html", context | extra, status=status)


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    collection = collection_or_404(request, pk)
    extra: dict[str, Any] = {}
    if "question" in request.GET:
        extra = _searched(request, collection)
    return page(request, collection, **extra)


@policy("viewer")
@require_GET
def live(request: HttpRequest, pk: int) -> HttpResponse:
    """The documents' table by itself, asked for while they are being read."""
    collection = collection_or_404(request, pk)
    found = listing(
        request, selectors.documents_of(collection), search=("title",), sortable=SORTABLE, default="name"
    )  # fmt: skip
    context = {
        "collection": collection, "listing": found, "work": selectors.work_of(collection),
        "figures": selectors.figures_of(collection), "may_write": request.principal.may("member"), "is_refresh": True,
    }  # fmt: skip
    return render(request, "collections/_live.html", context)


def _searched(request: HttpRequest, collection: Collection) -> dict[str, Any]:
    """The search form and its hits, or what went wrong, for the templates."""
    form = SearchForm(request.GET)
    if not form.is_valid():
        return {"search_form": form, "hits": None}
    question = form.cleaned_data["question"]
    payload = {
        "team_id": request.team.pk, "collection_id": collection.pk, "query": question,
        "k": collection.top_k + MORE_HITS, "threshold": -1.0,
    }  # fmt: skip
    try:
        found = call_service("search", payload, timeout_s=SEARCH_TIMEOUT_S)["hits"]
    except ColdframeError as error:
        return {"search_form": form, "search_error": error, "question": question}
    hits = [
        {**hit, "is_evidence": hit["score"] >= collection.threshold and place < collection.top_k}
        for place, hit in enumerate(found)
    ]
    return {
        "search_form": form, "question": question, "hits": hits,
        "n_evidence": sum(hit["is_evidence"] for hit in hits),
    }  # fmt: skip


@policy("viewer")
@require_GET
def search(request: HttpRequest, pk: int) -> HttpResponse:
    """The retrieval test's result alone."""
    collection = collection_or_404(request, pk)
    context = {"collection": collection, **_searched(request, collection)}
    return render(request, "collections/_hits.html", context)


@policy("member")
@require_POST
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    collection = collection_or_404(request, pk)
    form = SettingsForm(request.POST)
    if not form.is_valid():
        return page(request, collection, settings_form=form, status=400)
    try:
        run = services.collection_update(collection=collection, user=request.user, **form.cleaned_data)
    except ColdframeError as error:
        return page(request, collection, settings_form=form, status=_refuse(form, error))
    if run is not None:
        messages.success(request, "Saved. The documents are cut anew; the old chunks answer until that is done.")
    else:
        messages.success(request, "Saved.")
    return redirect("collections:detail", pk)


@policy("member")
@require_POST
def reindex(request: HttpRequest, pk: int) -> HttpResponse:
    run = services.collection_reindex(collection=collection_or_404(request, pk), user=request.user)
    messages.success(request, f"Run #{run.pk} reads {len(run.spec['documents'])} documents again.")
    return redirect("collections:detail", pk)


@policy("admin")
@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    collection = collection_or_404(request, pk)
    if request.POST.get("name", "").strip() != collection.name:
        error = ColdframeError(
            f"Type {collection.name} to delete it, got {request.POST.get('name', '')[:90]!r}.", field="name"
        )
        return page(request, collection, delete_error=error, status=400)
    services.collection_delete(collection=collection, user=request.user)
    messages.success(request, f"{collection.name} and its documents are deleted.")
    return redirect("collections:index")


urlpatterns = [
    path("", index, name="index"),
    path("new/", create, name="create"),
    path("<int:pk>/", detail, name="detail"),
    path("<int:pk>/live/", live, name="live"),
    path("<int:pk>/search/", search, name="search"),
    path("<int:pk>/settings/", edit, name="edit"),
    path("<int:pk>/reindex/", reindex, name="reindex"),
    path("<int:pk>/delete/", delete, name="delete"),
    path("<int:pk>/documents/", documents.add, name="add"),
    path("<int:pk>/documents/<int:document_pk>/", documents.detail, name="document"),
    path("<int:pk>/documents/<int:document_pk>/original/", documents.original, name="original"),
    path("<int:pk>/documents/<int:document_pk>/replace/", documents.replace, name="replace"),
    path("<int:pk>/documents/<int:document_pk>/again/", documents.again, name="again"),
    path("<int:pk>/documents/<int:document_pk>/delete/", documents.delete, name="document_delete"),
]
