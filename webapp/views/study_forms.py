"""The form of a new study, started empty, from a data set or like an earlier study; what it would be, while typing."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_http_methods, require_POST

from ml.errors import ColdframeError, NotFoundError
from ml.specs.study import TECHNIQUES
from webapp.forms.studies import CHOSEN, StudyForm, add_problem, initial_of
from webapp.models import DatasetVersion
from webapp.policy import policy
from webapp.selectors.studies import study_of
from webapp.selectors.study_preview import StudyPreview, preview_of
from webapp.services.studies import study_submit
from webapp.views import study_plan

PREFILLED = ("dataset_version", "base", "metric", "collection", "name")


def _preview(request: HttpRequest, form: StudyForm) -> StudyPreview:
    return preview_of(form, origin=f"{request.scheme}://{request.get_host()}")


def _page(request: HttpRequest, form: StudyForm, *, status: int = 200) -> HttpResponse:
    bound = form if form.is_bound else StudyForm(_as_data(form), team=request.team)
    context = {"form": form, "plan": _preview(request, bound)}
    return render(request, "studies/new.html", context, status=status)


def _as_data(form: StudyForm) -> dict[str, Any]:
    """What the form would send if it were submitted untouched."""
    values = {name: form[name].value() for name in form.fields}
    return {name: value for name, value in values.items() if value is not None and value is not False}


@policy("member")
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        return _page(request, StudyForm(team=request.team, initial=_initial(request)))
    form = StudyForm(request.POST, team=request.team)
    asked = request.POST.get("dataset_version", "")
    if asked.isdecimal() and form.version is None:
        raise NotFoundError(f"No data set version {asked[:20]} in this team.", hint="Choose one from the list.")
    if not form.is_valid() or form.version is None:
        return _page(request, form, status=422)
    try:
        study = study_submit(
            team=request.team, user=request.user, name=form.cleaned_data["name"], dataset_version_id=form.version.pk,
            given=form.given,
        )  # fmt: skip
    except ColdframeError as error:
        add_problem(form, error)
        return _page(request, form, status=422)
    messages.success(request, f"{study} is in line.")
    return redirect("studies:detail", pk=study.pk)


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 15 else 0


def _initial(request: HttpRequest) -> dict[str, Any]:
    """The newest data set; then what `like`, an earlier study, had; then what the link names."""
    newest = DatasetVersion.objects.for_team(request.team).filter(dataset__is_archived=False).order_by("-pk").first()
    initial: dict[str, Any] = {"dataset_version": str(newest.pk) if newest else ""}
    if like := _whole(request.GET.get("like", "")):
        study = study_of(team=request.team, pk=like)
        initial |= initial_of(study.spec) | {"dataset_version": str(study.dataset_version_id), "name": study.name}
    initial |= {name: request.GET[name][:120] for name in PREFILLED if request.GET.get(name)}
    named = [name for name in request.GET.getlist("technique") if name in TECHNIQUES]
    return initial | ({"which": CHOSEN, "techniques": named} if named else {})


@policy("member")
@require_POST
def preview(request: HttpRequest) -> HttpResponse:
    """What is typed so far, in words and as an API call."""
    form = StudyForm(request.POST, team=request.team)
    return render(request, "studies/_plan.html", {"plan": _preview(request, form), "is_fragment": True})


urlpatterns = [
    path("new/", new, name="new"),
    path("new/preview/", preview, name="preview"),
    *study_plan.urlpatterns,
]
