"""Pages of studies: the list, one study live and finished, its rows in dispute, its reports."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import path
from django.views.decorators.http import require_GET

from webapp.listing import listing
from webapp.policy import policy
from webapp.reports import report_response
from webapp.selectors import studies as select
from webapp.selectors.study_lists import SEARCHED, SORTABLE, STANDINGS, listed
from webapp.selectors.study_rows import SHOWS
from webapp.views import same_rows, study_actions, study_forms, study_plan
from webapp.views.study_page import in_dispute, live_context, measured_cells, page_context

LIVE_PARTS = ("state", "status", "matrix", "said")
"""Templates that an open page asks for again; the first two always, the others with news."""


def _list(request: HttpRequest, *, is_archive: bool) -> HttpResponse:
    found = listing(
        request, listed(request.team, archived=is_archive), search=SEARCHED, sortable=SORTABLE, default="-started",
        exact={"state": "standing"},
    )  # fmt: skip
    context = {
        "listing": found, "rows": select.rows_of(list(found)), "states": STANDINGS.items(), "is_archive": is_archive,
        "n_archived": select.studies_of(request.team, archived=True).count(),
        "may_write": request.principal.may("member"),
    }  # fmt: skip
    return render(request, "studies/index.html", context)


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return _list(request, is_archive=False)


@policy("viewer")
@require_GET
def archived(request: HttpRequest) -> HttpResponse:
    return _list(request, is_archive=True)


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    study = select.study_of(team=request.team, pk=pk)
    return render(request, "studies/detail.html", page_context(request, study))


@policy("viewer")
@require_GET
def rows(request: HttpRequest, pk: int) -> HttpResponse:
    """The pane of rows in dispute, when two others are chosen."""
    study = select.study_of(team=request.team, pk=pk)
    page = select.page_of(study)
    context = {"study": study, "disagreements": in_dispute(study, page, request.GET.dict()), "page": page,
               "shows": SHOWS.items(), "measured": measured_cells(page)}  # fmt: skip
    return render(request, "studies/_rows.html", context)


@policy("viewer")
@require_GET
def live(request: HttpRequest, pk: int) -> JsonResponse:
    """What is new since event `event`, as HTML; `is_live` False asks for the whole page again."""
    page = select.page_of(select.study_of(team=request.team, pk=pk))
    asked = request.GET.get("event", "")
    has_news = page.last_event > (int(asked) if asked.isdecimal() and len(asked) < 15 else 0)
    context = live_context(page)
    parts = LIVE_PARTS if has_news else LIVE_PARTS[:2]
    html = {name: render_to_string(f"studies/_{name}.html", context, request=request) for name in parts}
    return JsonResponse({**context["live"], "html": html})


@policy("viewer")
@require_GET
def report(request: HttpRequest, pk: int, ending: str) -> HttpResponse:
    """`ending` is html, md or csv."""
    return report_response(select.study_of(team=request.team, pk=pk), ending)


urlpatterns = [
    path("", index, name="index"),
    path("archived/", archived, name="archived"),
    *study_forms.urlpatterns,
    *study_plan.urlpatterns,
    *same_rows.urlpatterns,
    path("<int:pk>/", detail, name="detail"),
    path("<int:pk>/live/", live, name="live"),
    path("<int:pk>/rows/", rows, name="rows"),
    path("<int:pk>/report/<str:ending>/", report, name="report"),
    *study_actions.urlpatterns,
]
