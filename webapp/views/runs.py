"""Pages of runs: the list, one run with its live figures, and what can be done to it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from ml.errors import ColdframeError
from webapp.listing import listing
from webapp.models import Run
from webapp.policy import policy
from webapp.selectors import run_outcome as outcome
from webapp.selectors import runs as select
from webapp.selectors.run_plan import spec_yaml
from webapp.selectors.run_related import related
from webapp.selectors.targets import why_unserved
from webapp.services.runs import run_cancel, run_retry
from webapp.views import run_forms, run_memory

SORTABLE = {"title": "title", "state": "state", "kind": "kind", "began": "started_at", "ended": "finished_at"}
CANCEL_TEXT = {
    "cancelled": "The run is cancelled; it had not begun.",
    "stopping": "The run is asked to stop. It writes a checkpoint first, which takes up to 30 seconds.",
    "too_late": "It is too late to cancel: the run is over, or its result is being published.",
}


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    over = select.runs_of(request.team).filter(state__in=Run.TERMINAL)
    found = listing(
        request, over, search=("title", "dataset_version__dataset__name"), sortable=SORTABLE, default="-ended",
        exact={"state": "state", "kind": "kind"},
    )  # fmt: skip
    context = {
        "listing": found,
        "rows": select.rows_of(list(found.page)),
        "live": select.live_rows(request.team),
        "kinds": Run.Kind.choices,
        "states": [(state.value, state.label) for state in Run.TERMINAL],
        "may_write": request.principal.may("member"),
    }
    return render(request, "runs/index.html", context)


@policy("viewer")
@require_GET
def live_list(request: HttpRequest) -> HttpResponse:
    """The pane of running and waiting runs, asked for every few seconds."""
    return render(request, "runs/_live.html", {"live": select.live_rows(request.team)})


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    run = select.run_of(request.team, pk)
    return render(request, "runs/detail.html", _detail_context(request, run))


def _detail_context(request: HttpRequest, run: Run) -> dict[str, Any]:
    version, evals = getattr(run, "adapter_version", None), select.evaluations(run)
    return {
        "run": run,
        "row": select.rows_of([run])[0],
        "method": select.method_of(run),
        "related": related(run),
        "predicted_bytes": select.predicted_bytes(run),
        "memory_ratio": select.memory_ratio(run),
        "version": version,
        "unserved": why_unserved(version) if version else "",
        "peak_bytes": run.result.get("peak_bytes") or run.progress.get("peak_bytes"),
        "scores": select.scores(evals),
        "samples": select.samples(evals),
        "measured": outcome.measured(evals),
        "kept": outcome.kept(run),
        "warnings": outcome.warnings(run),
        "checkpoints": select.checkpoints(run),
        "log": select.log_lines(run),
        "spec_yaml": spec_yaml(run.spec),
        "chart": {
            "curves": select.curves(run),
            "evals": select.eval_curve(evals),
            "n_steps": run.progress.get("total") or run.spec.get("steps"),
            "last_event": select.last_event_id(run),
            "is_over": run.is_over,
        },
        "may_write": request.principal.may("member"),
        "can_retry": run.state in (Run.State.FAILED, Run.State.CANCELLED),
        "can_cancel": run.state in (Run.State.QUEUED, Run.State.LEASED, Run.State.RUNNING),
    }


def _whole(text: str) -> int:
    return int(text) if text.isdigit() and len(text) < 15 else 0


@policy("viewer")
@require_GET
def live(request: HttpRequest, pk: int) -> JsonResponse:
    """What is new since step `after` and event `event`: curves as numbers, panels as HTML."""
    run = select.run_of(request.team, pk)
    context = _detail_context(request, run)
    last_event = context["chart"]["last_event"]
    html = {name: render_to_string(f"runs/_{name}.html", context, request=request) for name in ("status", "state")}
    if last_event > _whole(request.GET.get("event", "")):
        for name in ("samples", "measured", "log", "checkpoints"):
            html[name] = render_to_string(f"runs/_{name}.html", context, request=request)
    return JsonResponse({
        "state": run.state, "is_over": run.is_over, "n_steps": context["chart"]["n_steps"], "last_event": last_event,
        "curves": select.curves(run, after=_whole(request.GET.get("after", ""))), "evals": context["chart"]["evals"],
        "html": html,
    })  # fmt: skip


@policy("member")
@require_POST
def cancel(request: HttpRequest, pk: int) -> HttpResponse:
    run = select.run_of(request.team, pk)
    outcome = run_cancel(run=run, user=request.user)
    (messages.warning if outcome == "too_late" else messages.success)(request, CANCEL_TEXT[outcome])
    return redirect("runs:detail", pk=pk)


@policy("member")
@require_POST
def retry(request: HttpRequest, pk: int) -> HttpResponse:
    run = select.run_of(request.team, pk)
    try:
        run_retry(run=run, user=request.user)
    except ColdframeError as error:
        messages.warning(request, f"{error.message} {error.hint}")
    else:
        messages.success(request, f"{run} is in line again and goes on from its last checkpoint.")
    return redirect("runs:detail", pk=pk)


urlpatterns = [
    path("", index, name="index"),
    path("live/", live_list, name="live_list"),
    *run_forms.urlpatterns,
    *run_memory.urlpatterns,
    path("<int:pk>/", detail, name="detail"),
    path("<int:pk>/live/", live, name="live"),
    path("<int:pk>/cancel/", cancel, name="cancel"),
    path("<int:pk>/retry/", retry, name="retry"),
]
