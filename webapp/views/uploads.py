"""From a file to a version: bring it, wait while it is read, map its columns, ask for a version, wait for that."""

from __future__ import annotations

import io
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.text import slugify
from django.views.decorators.http import require_GET, require_POST

from ml.errors import ColdframeError
from webapp.forms.datasets import MappingForm, VersionForm
from webapp.models import Run, Upload
from webapp.policy import policy
from webapp.selectors import uploads as selectors
from webapp.services import uploads as services
from webapp.services.datasets import version_submit
from webapp.services.hub_files import hub_fetch_submit


def _new_page(request: HttpRequest, *, error: ColdframeError | None = None) -> HttpResponse:
    context = {
        "error": error,
        "pasted": request.POST.get("pasted", ""),
        "limit_bytes": settings.MAX_UPLOAD_BYTES,
        "hub": {name: request.POST.get(name, "") for name in ("repo", "file", "revision")},
    }
    return render(request, "datasets/new.html", context, status=error.status if error else 200)


@policy("member")
@require_GET
def new(request: HttpRequest) -> HttpResponse:
    return _new_page(request)


def _pasted_name(text: str) -> str:
    """What pasted text is called, so that it is read as what it looks like."""
    begin = text.lstrip()[:1]
    if begin in ("{", "["):
        return "pasted.json" if begin == "[" else "pasted.jsonl"
    return "pasted.tsv" if "\t" in text.split("\n", 1)[0] else "pasted.csv"


def _brought(request: HttpRequest) -> tuple[Any, str]:
    file = request.FILES.get("file")
    if file is not None:
        return file, file.name or "upload"
    pasted = request.POST.get("pasted", "")
    if not pasted.strip():
        raise ColdframeError("No file was chosen and nothing was pasted.", hint="Choose a file, or paste some rows.",
                             field="file")  # fmt: skip
    # A lone surrogate cannot be sent by a browser; a crafted request gets the reader's row-numbered refusal.
    return io.BytesIO(pasted.encode("utf-8", "surrogatepass")), _pasted_name(pasted)


@policy("member")
@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    """Takes a file or pasted text; answers with JSON to the page's own script, with pages to plain forms."""
    is_script = request.headers.get("Accept", "").startswith("application/json")
    try:
        file, name = _brought(request)
        kept, is_new = services.upload_create(team=request.team, user=request.user, file=file, filename=name)
    except ColdframeError as error:
        if is_script:
            raise
        return _new_page(request, error=error)
    if not is_new:
        messages.info(
            request, f"These are the same bytes as {kept.filename}, which is here already. Nothing new is kept."
        )
    url = reverse("datasets:upload", args=[kept.pk])
    return JsonResponse({"url": url}) if is_script else redirect(url)


@policy("member")
@require_POST
def hub(request: HttpRequest) -> HttpResponse:
    """A file of a hub's repository: a run fetches it, and the upload's page waits for it."""
    given = {name: request.POST.get(name, "") for name in ("repo", "file", "revision")}
    try:
        kept = hub_fetch_submit(team=request.team, user=request.user, **given)
    except ColdframeError as error:
        return _new_page(request, error=error)
    return redirect("datasets:upload", kept.pk)


def _page(
    request: HttpRequest, row: Upload, *, mapping: MappingForm | None = None, version: VersionForm | None = None,
    error: ColdframeError | None = None, status: int = 200,
) -> HttpResponse:  # fmt: skip
    run = selectors.run_of(row)
    made_of = selectors.versions_from(row)
    numbers = selectors.next_numbers(request.team)
    guess = made_of[0].dataset.name if made_of else slugify(row.filename.rpartition(".")[0])[:80].strip("-_")
    context = {
        "upload": row, "run": run if run and run.state != Run.State.SUCCEEDED else None, "made_of": made_of,
        "mapping_form": mapping or MappingForm(upload=row),
        "version_form": version or VersionForm(upload=row, siblings=selectors.siblings_of(row), name=guess),
        "columns": selectors.roles_of(row), "is_fresh": selectors.is_fresh(row), "error": error,
        "column_names": [column["name"] for column in row.report.get("columns", [])], "numbers": numbers,
        "n_rows": row.report.get("n_rows", 0),
    }  # fmt: skip
    return render(request, "datasets/upload.html", context, status=status)


@policy("member")
@require_GET
def upload_detail(request: HttpRequest, pk: int) -> HttpResponse:
    return _page(request, selectors.upload_of(request.team, pk))


@policy("member")
@require_GET
def upload_state(request: HttpRequest, pk: int) -> HttpResponse:
    """Polled while the file is read or a version is made; sends the page on when that is over."""
    row = selectors.upload_of(request.team, pk)
    run = selectors.run_of(row)
    if run is not None and run.state == Run.State.SUCCEEDED:
        response = HttpResponse()
        response.headers["HX-Redirect"] = _after(request, row, run)
        return response
    if (run is None and row.state != Upload.State.READING) or (run is not None and run.is_over):
        response = HttpResponse()
        response.headers["HX-Refresh"] = "true"
        return response
    return render(request, "datasets/_waiting.html", {"upload": row, "run": run})


def _after(request: HttpRequest, row: Upload, run: Run) -> str:
    """The page of the version that was made."""
    name = run.result.get("name", "")
    if run.result.get("is_new", True):
        messages.success(request, f"{name} is stored.")
    else:
        messages.info(request, f"The rows equal {name}, so no new version was made.")
    number = name.rpartition("@")[2]
    return f"{reverse('datasets:detail', args=[row.dataset_id])}?version={number}"


def _preview(request: HttpRequest, row: Upload, *, error: str = "") -> HttpResponse:
    context = {"upload": row, "is_fresh": selectors.is_fresh(row), "mapping_error": error}
    return render(request, "datasets/_preview.html", context)


@policy("member")
@require_POST
def upload_map(request: HttpRequest, pk: int) -> HttpResponse:
    """Keeps the mapping and asks for a preview of it."""
    row = selectors.upload_of(request.team, pk)
    form = MappingForm(request.POST, upload=row)
    if not form.is_valid():
        first = next(iter(form.errors.values()))[0]
        return _preview(request, row, error=str(first))
    services.upload_map(upload=row, mapping=form.mapping)
    row.refresh_from_db()
    return _preview(request, row)


@policy("member")
@require_GET
def upload_preview(request: HttpRequest, pk: int) -> HttpResponse:
    return _preview(request, selectors.upload_of(request.team, pk))


@policy("member")
@require_POST
def upload_again(request: HttpRequest, pk: int) -> HttpResponse:
    row = selectors.upload_of(request.team, pk)
    if not services.upload_again(upload=row):
        messages.warning(request, "The queue does not answer yet. Your file is kept.")
    return redirect("datasets:upload", pk)


@policy("member")
@require_POST
def upload_reopen(request: HttpRequest, pk: int) -> HttpResponse:
    """Goes on without the rows that cannot be read, or maps a used file once more."""
    services.upload_reopen(upload=selectors.upload_of(request.team, pk))
    return redirect("datasets:upload", pk)


@policy("member")
@require_POST
def upload_discard(request: HttpRequest, pk: int) -> HttpResponse:
    row = selectors.upload_of(request.team, pk)
    services.upload_discard(upload=row, user=request.user)
    messages.success(request, f"{row.filename} was removed.")
    return redirect("datasets:new")


@policy("member")
@require_POST
def version_create(request: HttpRequest, pk: int) -> HttpResponse:
    row = selectors.upload_of(request.team, pk)
    mapping = MappingForm(request.POST, upload=row)
    version = VersionForm(request.POST, upload=row, siblings=selectors.siblings_of(row))
    if not (mapping.is_valid() & version.is_valid()):
        return _page(request, row, mapping=mapping, version=version, status=400)
    given = version.cleaned_data
    try:
        version_submit(
            team=request.team, user=request.user, upload=row, name=given["name"], mapping=mapping.mapping,
            splits=version.splits, seed=given["seed"], leave_out=given["leave_out"],
            drop_duplicates=given["drop_duplicates"], drop_leaks=given["drop_leaks"],
        )  # fmt: skip
    except ColdframeError as error:
        field = f"{error.field}_file" if given["split"] == "files" else error.field
        field = field if field in version.fields else error.field
        if field in version.fields:
            version.add_error(field, f"{error.message} {error.hint}".strip())
            return _page(request, row, mapping=mapping, version=version, status=error.status)
        return _page(request, row, mapping=mapping, version=version, error=error, status=error.status)
    return redirect("datasets:upload", pk)


urlpatterns = [
    path("new/", new, name="new"),
    path("uploads/", upload, name="uploads"),
    path("uploads/hub/", hub, name="hub"),
    path("uploads/<int:pk>/", upload_detail, name="upload"),
    path("uploads/<int:pk>/state/", upload_state, name="upload_state"),
    path("uploads/<int:pk>/map/", upload_map, name="upload_map"),
    path("uploads/<int:pk>/preview/", upload_preview, name="upload_preview"),
    path("uploads/<int:pk>/again/", upload_again, name="upload_again"),
    path("uploads/<int:pk>/reopen/", upload_reopen, name="upload_reopen"),
    path("uploads/<int:pk>/discard/", upload_discard, name="upload_discard"),
    path("uploads/<int:pk>/create/", version_create, name="version_create"),
]
