"""Pages of datasets: the list, one version with its report and rows, downloads, archive."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from webapp.listing import listing
from webapp.models import DatasetVersion
from webapp.policy import policy
from webapp.selectors import dataset_rows as row_selectors
from webapp.selectors import datasets as selectors
from webapp.selectors.drafts import n_kept
from webapp.services.datasets import dataset_archive, dataset_describe
from webapp.views import dataset_diffs, drafts, uploads

SORTABLE = {"name": "name", "stored": "stored_at", "versions": "n_versions"}
EXPORTS = {
    "jsonl": (row_selectors.as_jsonl, "application/x-ndjson"),
    "csv": (row_selectors.as_csv, "text/csv; charset=utf-8"),
}


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    with_archived = request.GET.get("archived") == "1"
    rows = selectors.datasets_of(request.team, with_archived=with_archived)
    found = listing(request, rows, search=("name", "description"), sortable=SORTABLE, default="-stored")
    cards = selectors.cards_of(list(found.page))
    context = {
        "listing": found,
        "cards": cards,
        "figures": selectors.figures_of(request.team, cards),
        "uploads": selectors.open_uploads(request.team)[:5],
        "n_draft": n_kept(request.team),
        "with_archived": with_archived,
        "may_write": request.principal.may("member"),
    }
    return render(request, "datasets/index.html", context)


def _page_number(request: HttpRequest) -> int:
    text = request.GET.get("page", "1")
    return int(text) if text.isdecimal() and len(text) < 7 else 1


def _rows(request: HttpRequest, version: DatasetVersion) -> dict[str, Any]:
    return row_selectors.rows_page(
        version,
        split=request.GET.get("split", ""),
        query=request.GET.get("rows", ""),
        page=_page_number(request),
    )


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    dataset = selectors.dataset_of(request.team, pk)
    version = selectors.version_of(dataset, request.GET.get("version", ""))
    context = {
        "dataset": dataset,
        "version": version,
        "task": selectors.task_words(version),
        "versions": dataset.versions.select_related("created_by").all(),
        "bars": selectors.split_bar(version.splits),
        "labels": selectors.label_rows(version),
        "majority": selectors.majority_of(version),
        "lengths": selectors.histogram_of(version.stats.get("tokens") or version.stats.get("characters") or {}),
        "unit": "tokens" if version.stats.get("tokens") else "characters",
        "uses": selectors.uses_of(version),
        "found": _rows(request, version),
        "may_write": request.principal.may("member"),
    }
    return render(request, "datasets/detail.html", context)


@policy("viewer")
@require_GET
def rows(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """The table of rows by itself, for filters and paging."""
    version = selectors.version_of(selectors.dataset_of(request.team, pk), number)
    return render(request, "datasets/_rows.html", {"version": version, "found": _rows(request, version)})


@policy("viewer")
@require_GET
def download(request: HttpRequest, pk: int, number: int, kind: str) -> StreamingHttpResponse:
    """All splits in one file, with the split beside each row."""
    version = selectors.version_of(selectors.dataset_of(request.team, pk), number)
    lines, content_type = EXPORTS[kind]
    response = StreamingHttpResponse(row_selectors.streamed(lines(version)), content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{version.dataset.name}-{version.number}.{kind}"'
    return response


@policy("member")
@require_POST
def archive(request: HttpRequest, pk: int) -> HttpResponse:
    dataset = selectors.dataset_of(request.team, pk)
    is_archived = request.POST.get("archived") == "1"
    dataset_archive(dataset=dataset, user=request.user, is_archived=is_archived)
    done = "is archived; its versions and adapters stay" if is_archived else "is back in the list"
    messages.success(request, f"{dataset.name} {done}.")
    return redirect("datasets:index" if is_archived else "datasets:detail", *([] if is_archived else [pk]))


@policy("member")
@require_POST
def describe(request: HttpRequest, pk: int) -> HttpResponse:
    dataset = selectors.dataset_of(request.team, pk)
    dataset_describe(dataset=dataset, user=request.user, description=request.POST.get("description", ""))
    return redirect("datasets:detail", pk)


urlpatterns = [
    path("", index, name="index"),
    *uploads.urlpatterns,
    *dataset_diffs.urlpatterns,
    *drafts.urlpatterns,
    path("<int:pk>/", detail, name="detail"),
    path("<int:pk>/<int:number>/rows/", rows, name="rows"),
    path("<int:pk>/<int:number>/rows.jsonl", download, {"kind": "jsonl"}, name="download"),
    path("<int:pk>/<int:number>/rows.csv", download, {"kind": "csv"}, name="download_csv"),
    path("<int:pk>/archive/", archive, name="archive"),
    path("<int:pk>/describe/", describe, name="describe"),
]
