"""Pages of evaluations: the list with the team's prices, a new one, one with its rows, two on the same rows."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from ml.errors import ColdframeError, NotFoundError, SpecError
from webapp.forms.evaluations import FIELD_OF, EvaluationForm, PriceForm
from webapp.listing import listing
from webapp.models import Evaluation
from webapp.policy import policy
from webapp.selectors import evaluation_pairs as pairs
from webapp.selectors import evaluation_rows as answered
from webapp.selectors import evaluations as selectors
from webapp.selectors.dataset_rows import streamed
from webapp.selectors.runs import share_of
from webapp.services import evaluations as services

PREFILLED = ("model", "prompt", "collection", "dataset_version", "split")
SORTABLE = {"subject": "subject", "data": "dataset_version__dataset__name", "metric": "headline", "made": "created_at"}


def _index(request: HttpRequest, price_form: PriceForm | None = None, *, status: int = 200) -> HttpResponse:
    found = listing(
        request, selectors.sortable_list(request.team), search=("subject", "dataset_version__dataset__name"),
        sortable=SORTABLE, default="-made",
    )  # fmt: skip
    context = {
        "listing": found, "rows": [_row(evaluation) for evaluation in found],
        "price_form": price_form or PriceForm(initial=request.team.prices), "prices": request.team.prices,
        "may_write": request.principal.may("member"), "may_price": request.principal.may("admin"),
    }  # fmt: skip
    return render(request, "evaluations/index.html", context, status=status)


def _row(evaluation: Evaluation) -> dict[str, Any]:
    return {"evaluation": evaluation, "figure": selectors.figure(evaluation), "cost": selectors.cost_of(evaluation)}


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return _index(request)


@policy("admin")
@require_POST
def price(request: HttpRequest) -> HttpResponse:
    form = PriceForm(request.POST)
    if form.is_valid():
        try:
            services.prices_set(team=request.team, user=request.user, **form.cleaned_data)
        except SpecError as error:
            form.add_error(error.field if error.field in form.fields else None, f"{error.message} {error.hint}".strip())
        else:
            messages.success(request, "The prices are saved. Every evaluation shows its cost by them.")
            return redirect("evaluations:index")
    return _index(request, form, status=422)


@policy("member")
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        initial = {name: request.GET[name][:200] for name in PREFILLED if request.GET.get(name)}
        return _new_page(request, EvaluationForm(team=request.team, initial=initial))
    form = EvaluationForm(request.POST, team=request.team)
    asked = request.POST.get("dataset_version", "")
    if asked.isdigit() and asked not in [str(version.pk) for version in form.versions]:
        raise NotFoundError(f"No data set version {asked[:20]} in this team.", hint="Choose one from the list.")
    if form.is_valid():
        try:
            evaluation = services.evaluation_submit(team=request.team, user=request.user, **form.given)
        except ColdframeError as error:
            field = FIELD_OF.get(error.field, error.field)
            form.add_error(field if field in form.fields else None, f"{error.message} {error.hint}".strip())
        else:
            messages.success(request, f"The evaluation of {evaluation.name} is in line.")
            return redirect("evaluations:detail", pk=evaluation.pk)
    return _new_page(request, form, status=422)


def _new_page(request: HttpRequest, form: EvaluationForm, *, status: int = 200) -> HttpResponse:
    return render(request, "evaluations/new.html", {"form": form}, status=status)


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    evaluation = selectors.evaluation_of(team=request.team, pk=pk)
    context: dict[str, Any] = {
        "evaluation": evaluation, "may_write": request.principal.may("member"),
        "share": share_of(evaluation.run) if evaluation.run else 0, "is_trained_on": _is_trained_on(evaluation),
    }  # fmt: skip
    if evaluation.is_done:
        context |= {
            "figures": selectors.figures(evaluation), "cost": selectors.cost_of(evaluation),
            "confusion": selectors.confusion_of(evaluation), "pairs": pairs.comparisons_with(evaluation),
            "answered": answered.rows_page(evaluation, request.GET.dict()), "filters": answered.FILTERS,
        }  # fmt: skip
    return render(request, "evaluations/detail.html", context)


def _is_trained_on(evaluation: Evaluation) -> bool:
    version = evaluation.adapter_version
    is_same = version is not None and version.dataset_version_id == evaluation.dataset_version_id
    return is_same and evaluation.split == "train"


@policy("viewer")
@require_GET
def progress(request: HttpRequest, pk: int) -> HttpResponse:
    """How far it is, asked for every two seconds; the whole page again once it is over."""
    evaluation = selectors.evaluation_of(team=request.team, pk=pk)
    run = evaluation.run
    context = {"evaluation": evaluation, "share": share_of(run) if run else 0,
               "may_write": request.principal.may("member")}  # fmt: skip
    response = render(request, "evaluations/_progress.html", context)
    if run is None or run.is_over:
        response.headers["HX-Refresh"] = "true"
    return response


@policy("viewer")
@require_GET
def results(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    """Every answered row, a JSON object a line."""
    evaluation = selectors.evaluation_of(team=request.team, pk=pk)
    if not evaluation.is_done:
        raise NotFoundError("This evaluation has no results yet.", hint="Wait until its run is done.")
    lines = answered.every_line(evaluation)
    response = StreamingHttpResponse(streamed(lines), content_type="application/x-ndjson; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="evaluation-{pk}.jsonl"'
    return response


@policy("viewer")
@require_GET
def compare(request: HttpRequest, left: int, right: int) -> HttpResponse:
    pair = pairs.pair_of(team=request.team, left=left, right=right)
    context = {"pair": pair, "answered": pairs.disagreements(pair, {"show": "left", **request.GET.dict()}),
               "filters": pairs.DISAGREEMENTS}  # fmt: skip
    return render(request, "evaluations/compare.html", context)


urlpatterns = [
    path("", index, name="index"),
    path("new/", new, name="new"),
    path("price/", price, name="price"),
    path("<int:pk>/", detail, name="detail"),
    path("<int:pk>/progress/", progress, name="progress"),
    path("<int:pk>/results/", results, name="results"),
    path("compare/<int:left>/<int:right>/", compare, name="compare"),
]
