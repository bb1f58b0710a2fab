"""What can be done with a study: stop, go on, add to it, put an entry into the library, rename, archive."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_http_methods, require_POST

from ml.errors import ColdframeError
from webapp.forms.studies import add_problem
from webapp.forms.study_changes import ExtendForm, PromoteForm
from webapp.models import AdapterVersion, PromptVersion, Study
from webapp.policy import policy
from webapp.selectors import studies as select
from webapp.services import studies as services
from webapp.services.study_promotions import study_promote
from webapp.views.study_page import page_context

STOP_TEXT = {
    "cancelled": "The study is stopped; it had not begun.",
    "stopping": "The study is asked to stop. It keeps what is measured, and a checkpoint of what is at work.",
    "too_late": "It is too late to stop: the study is over, or its results are being published.",
}


def _study(request: HttpRequest, pk: int) -> Study:
    return select.study_of(team=request.team, pk=pk)


def _warn(request: HttpRequest, error: ColdframeError) -> None:
    messages.warning(request, f"{error.message} {error.hint}".strip())


@policy("member")
@require_POST
def stop(request: HttpRequest, pk: int) -> HttpResponse:
    outcome = services.study_stop(study=_study(request, pk), user=request.user)
    (messages.warning if outcome == "too_late" else messages.success)(request, STOP_TEXT[outcome])
    return redirect("studies:detail", pk=pk)


@policy("member")
@require_POST
def go_on(request: HttpRequest, pk: int) -> HttpResponse:
    study = _study(request, pk)
    try:
        services.study_go_on(study=study, user=request.user)
    except ColdframeError as error:
        _warn(request, error)
    else:
        messages.success(request, f"{study} is in line again and goes on where it was.")
    return redirect("studies:detail", pk=pk)


@policy("member")
@require_http_methods(["GET", "HEAD", "POST"])
def extend(request: HttpRequest, pk: int) -> HttpResponse:
    study = _study(request, pk)
    page, choices = select.page_of(study), select.techniques_to_add(study)
    form = ExtendForm(request.POST if request.method == "POST" else None, study=study, choices=choices,
                      collections=select.offered_to(study))  # fmt: skip
    status = 200
    if request.method == "POST":
        if form.is_valid():
            try:
                services.study_extend(study=study, user=request.user, **form.given)
            except ColdframeError as error:
                add_problem(form, error)
            else:
                messages.success(request, f"{study} is in line again; what is measured is taken over.")
                return redirect("studies:detail", pk=pk)
        status = 422
    return render(request, "studies/extend.html", {"study": study, "page": page, "form": form}, status=status)


@policy("member")
@require_http_methods(["GET", "HEAD", "POST"])
def promote(request: HttpRequest, pk: int) -> HttpResponse:
    study = _study(request, pk)
    page = select.page_of(study)
    is_post, status = request.method == "POST", 200
    cells = sorted(page.promotable, key=lambda cell: -(cell.measure.value if cell.measure else 0))
    form = PromoteForm(request.POST if is_post else None, cells=cells, initial=_first(request, page))
    if is_post:
        if form.is_valid() and (version := _promoted(request, study, form)) is not None:
            return _to(version)
        status = 422
    context = {"study": study, "page": page, "board": page.board, "form": form,
               "needs_reason": is_post and bool(form.errors.get("reason"))}  # fmt: skip
    return render(request, "studies/promote.html", context, status=status)


def _first(request: HttpRequest, page: select.StudyPage) -> dict[str, Any]:
    """The entry that the link names, else the one to take; called as the data set is."""
    keys = [cell.key for cell in page.promotable]
    take = page.board.take.best_key if page.board and page.board.take else ""
    asked = request.GET.get("entry", "")
    entry = asked if asked in keys else take if take in keys else keys[0] if keys else ""
    return {"entry": entry, "name": page.study.dataset_version.dataset.name}


def _promoted(request: HttpRequest, study: Study, form: PromoteForm) -> AdapterVersion | PromptVersion | None:
    given = form.cleaned_data
    try:
        version = study_promote(
            entry=select.entry_of(study=study, key=given["entry"]), user=request.user, name=given["name"],
            alias=given["alias"], reason=given["reason"],
        )  # fmt: skip
    except ColdframeError as error:
        add_problem(form, error)
        return None
    points = f"; {given['alias']} points at it" if given["alias"] else ""
    messages.success(request, f"{version} is in the library{points}.")
    return version


def _to(version: AdapterVersion | PromptVersion) -> HttpResponse:
    if isinstance(version, AdapterVersion):
        return redirect("adapters:version", pk=version.adapter_id, number=version.number)
    return redirect("prompts:version", pk=version.prompt_id, number=version.number)


@policy("member")
@require_POST
def rename(request: HttpRequest, pk: int) -> HttpResponse:
    study, typed = _study(request, pk), request.POST.get("name", "")
    try:
        services.study_rename(study=study, user=request.user, name=typed)
    except ColdframeError as error:
        context = page_context(request, _study(request, pk)) | {"rename_problem": error, "rename_typed": typed}
        return render(request, "studies/detail.html", context, status=422)
    return redirect("studies:detail", pk=pk)


@policy("member")
@require_POST
def archive(request: HttpRequest, pk: int) -> HttpResponse:
    """With `back` it comes out of the archive again."""
    study, is_back = _study(request, pk), "back" in request.POST
    try:
        services.study_archive(study=study, user=request.user, is_archived=not is_back)
    except ColdframeError as error:
        _warn(request, error)
        return redirect("studies:detail", pk=pk)
    messages.success(
        request, f"{study} is back in the list." if is_back else f"{study} is archived; it stays as it is."
    )
    return redirect("studies:detail", pk=pk) if is_back else redirect("studies:index")


urlpatterns = [
    path("<int:pk>/stop/", stop, name="stop"),
    path("<int:pk>/continue/", go_on, name="go_on"),
    path("<int:pk>/extend/", extend, name="extend"),
    path("<int:pk>/promote/", promote, name="promote"),
    path("<int:pk>/rename/", rename, name="rename"),
    path("<int:pk>/archive/", archive, name="archive"),
]
