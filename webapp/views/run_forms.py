"""The form of a new run: filled by hand, by cloning a run, or by a spec that somebody brings; its preview, its file."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_http_methods, require_POST

from ml.errors import ColdframeError, NotFoundError, SpecError
from webapp.forms.runs import TrainForm, initial_of
from webapp.models import DatasetVersion, Run
from webapp.policy import policy
from webapp.selectors import runs as select
from webapp.selectors.run_plan import Plan, plan_of
from webapp.selectors.run_specs import MAX_BYTES, loaded, spec_of_text
from webapp.services.runs import training_submit


def _original(request: HttpRequest) -> Run | None:
    """The run that is being cloned; Http404 when it is not one of the team's."""
    clone = (request.POST if request.method == "POST" else request.GET).get("clone", "")
    return select.run_of(request.team, int(clone)) if clone.isdigit() and len(clone) < 15 else None


def _plan(request: HttpRequest, form: TrainForm) -> Plan:
    return plan_of(form, origin=f"{request.scheme}://{request.get_host()}", original=_original(request))


def _page(request: HttpRequest, form: TrainForm, *, status: int = 200, **extra: Any) -> HttpResponse:
    plan_form = form if form.is_bound else TrainForm(_as_data(form), team=request.team)
    plan = _plan(request, plan_form)
    context = {
        "form": form, "plan": plan, "earlier": select.earlier_trainings(request.team),
        "n_problems": len(plan.problems) + len(extra.get("load_problems", ())), **extra,
    }  # fmt: skip
    return render(request, "runs/new.html", context, status=status)


def _as_data(form: TrainForm) -> dict[str, Any]:
    """What the form would send if it were submitted untouched."""
    values = {name: form[name].value() for name in form.fields}
    return {name: value for name, value in values.items() if value is not None and value is not False}


@policy("member")
@require_http_methods(["GET", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    if request.method == "GET":
        return _page(request, TrainForm(team=request.team, initial=_initial(request)))
    form = _posted(request)
    if not form.is_valid():
        return _page(request, form, status=422)
    try:
        run = training_submit(
            team=request.team, user=request.user, adapter=form.cleaned_data["adapter"],
            dataset_version_id=int(form.cleaned_data["dataset_version"]), given=form.given,
        )  # fmt: skip
    except SpecError as error:
        form.add_error(None, f"{error.message} {error.hint}")
        return _page(request, form, status=422)
    messages.success(request, f"{run} is in line.")
    return redirect("runs:detail", pk=run.pk)


def _posted(request: HttpRequest) -> TrainForm:
    form = TrainForm(request.POST, team=request.team)
    asked = request.POST.get("dataset_version", "")
    if asked.isdigit() and form.version is None:
        raise NotFoundError(f"No data set version {asked[:20]} in this team.", hint="Choose one from the list.")
    return form


def _initial(request: HttpRequest) -> dict[str, Any]:
    newest = DatasetVersion.objects.for_team(request.team).filter(dataset__is_archived=False).order_by("-pk").first()
    initial: dict[str, Any] = {"dataset_version": str(newest.pk) if newest else ""}
    original = _original(request)
    if original is not None:
        initial |= initial_of(original.spec) | {"dataset_version": str(original.dataset_version_id or "")}
    for name in ("dataset_version", "adapter", "method", "base"):
        if request.GET.get(name):
            initial[name] = request.GET[name][:120]
    return _named(request, initial)


def _named(request: HttpRequest, initial: dict[str, Any]) -> dict[str, Any]:
    """An adapter that was not named gets the data set's name."""
    if "adapter" not in initial:
        asked = str(initial.get("dataset_version", ""))
        rows = DatasetVersion.objects.for_team(request.team).select_related("dataset")
        chosen = rows.filter(pk=int(asked)).first() if asked.isdigit() and len(asked) < 15 else None
        initial["adapter"] = chosen.dataset.name if chosen else ""
    return initial


@policy("member")
@require_POST
def preview(request: HttpRequest) -> HttpResponse:
    """The summary, the YAML and the API call of what is typed so far."""
    form = TrainForm(request.POST, team=request.team)
    return render(request, "runs/_plan.html", {"plan": _plan(request, form), "is_fragment": True})


@policy("member")
@require_POST
def spec_file(request: HttpRequest) -> HttpResponse:
    """What is typed, as run.yaml to keep."""
    form = _posted(request)
    if not form.is_valid():
        return _page(request, form, status=422)
    response = HttpResponse(_plan(request, form).yaml, content_type="application/yaml; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{form.cleaned_data["adapter"]}.run.yaml"'
    return response


@policy("member")
@require_POST
def load(request: HttpRequest) -> HttpResponse:
    """The form filled from a spec that was pasted or sent as a file; nothing is started."""
    file = request.FILES.get("file")
    text = request.POST.get("spec", "")
    try:
        given = spec_of_text(file.read(MAX_BYTES + 1) if file else text)
    except ColdframeError as error:
        form = TrainForm(team=request.team, initial=_initial(request))
        problems = [f"{error.message} {error.hint}".strip()]
        return _page(request, form, status=422, load_problems=problems, load_text=text, is_loading=True)
    found = loaded(given, team=request.team)
    untouched = _as_data(TrainForm(team=request.team, initial=_named(request, {**_initial(request), **found.data})))
    form = TrainForm(untouched, team=request.team)
    is_good = form.is_valid() and not found.problems
    return _page(request, form, status=200 if is_good else 422, load_problems=found.problems, is_loaded=True)


urlpatterns = [
    path("new/", new, name="new"),
    path("new/preview/", preview, name="preview"),
    path("new/spec/", spec_file, name="spec_file"),
    path("new/load/", load, name="load"),
]
