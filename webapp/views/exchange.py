"""Bringing an adapter in, taking a version out, and fetching what was made of it."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from ml.errors import ColdframeError
from ml.specs import METHODS
from webapp.archive import azip_pieces, files_of
from webapp.forms.exchange import HubForm, ImportForm
from webapp.policy import policy
from webapp.selectors import exchange as selectors
from webapp.selectors.adapters import version_of
from webapp.services import exchange as services


def _import_page(request: HttpRequest, form: ImportForm, *, status: int = 200) -> HttpResponse:
    context = {
        "form": form,
        "limit_bytes": settings.MAX_UPLOAD_BYTES,
        "methods": [method for method in METHODS.values() if method.storage == "peft"],
    }
    return render(request, "adapters/import.html", context, status=status)


@policy("member")
@require_http_methods(["GET", "POST"])
def import_new(request: HttpRequest) -> HttpResponse:
    """The form, and what it sends."""
    if request.method == "GET":
        return _import_page(request, ImportForm(initial={"base": settings.BASE_MODEL}))
    form = ImportForm(request.POST, request.FILES)
    if not form.is_valid():
        return _import_page(request, form, status=422)
    file = form.cleaned_data["file"]
    try:
        run = services.import_submit(
            team=request.team, user=request.user, file=file, filename=file.name, size_bytes=file.size,
            name=form.cleaned_data["name"], base=form.cleaned_data["base"], labels=form.labels_given,
        )  # fmt: skip
    except ColdframeError as error:
        form.add_error(error.field if error.field in form.fields else "file", f"{error.message} {error.hint}".strip())
        return _import_page(request, form, status=error.status)
    messages.success(request, f"{file.name} is in line to be checked.")
    return redirect("runs:detail", pk=run.pk)


@policy("member")
@require_POST
def export(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Asks for base and adapter as one model."""
    version = version_of(team=request.team, pk=pk, number=number)
    run = services.export_submit(version=version, user=request.user)
    messages.success(request, f"{version} is in line to be merged.")
    return redirect("runs:detail", pk=run.pk)


@policy("member")
@require_POST
def hub(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Asks for the version to be put on the Hub."""
    version = version_of(team=request.team, pk=pk, number=number)
    form = HubForm(request.POST)
    try:
        if not form.is_valid():
            raise ColdframeError("The Hub needs a repository name.", hint="Give name or owner/name.", field="repo")
        run = services.hub_submit(version=version, user=request.user, **form.cleaned_data)
    except ColdframeError as error:
        messages.warning(request, f"{error.message} {error.hint}".strip())
        return redirect("adapters:version", pk=pk, number=number)
    messages.success(request, f"{version} is in line for the Hub.")
    return redirect("runs:detail", pk=run.pk)


@policy("viewer")
@require_GET
def exported(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    """A merged model as a zip, made while it is sent."""
    run = selectors.export_run(team=request.team, pk=pk)
    folder, names = selectors.export_files(run=run)
    root = run.title.replace("@", "-v").replace(" ", "-")
    response = StreamingHttpResponse(azip_pieces(files_of(folder, names), root=root), content_type="application/zip")
    response.headers["Content-Disposition"] = f'attachment; filename="{root}.zip"'
    return response


urlpatterns = [
    path("import/", import_new, name="import"),
    path("exports/<int:pk>/", exported, name="exported"),
    path("<int:pk>/<int:number>/export", export, name="export"),
    path("<int:pk>/<int:number>/hub", hub, name="hub"),
]
