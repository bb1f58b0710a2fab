"""The team's draft: judged answers out of chat, reviewed and made a version of."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from ml.errors import ColdframeError
from ml.specs import TASK_KINDS
from webapp.listing import listing
from webapp.models import Dataset, DraftRow
from webapp.policy import policy
from webapp.selectors import drafts as selectors
from webapp.selectors.uploads import next_numbers
from webapp.services.draft_versions import draft_submit
from webapp.services.drafts import draft_decide, draft_edit

STATES = ("kept", "dropped", "stored")


def _page(request: HttpRequest, *, error: ColdframeError | None = None) -> HttpResponse:
    state = request.GET.get("state", "")
    state = state if state in STATES else "kept"
    rows = selectors.draft_of(request.team).filter(state=state).order_by("-pk")
    found = listing(request, rows, search=("answer", "said"), exact={"state": "state", "kind": "kind"})
    kept, repeats = selectors.without_repeats(selectors.kept_of(request.team))
    name = request.POST.get("name", "") or selectors.guess_name(request.team)
    task = request.POST.get("task", "") or ("chat" if any(len(row.messages) > 1 for row in kept) else "generation")
    context = {
        "listing": found, "rows": selectors.shown_rows(request.team, list(found.page), user=request.user),
        "state": state, "states": STATES, "counts": selectors.counts_of(request.team), "n_ready": len(kept),
        "n_repeats": len(repeats), "n_contradictions": len(kept) - len({row.question_digest for row in kept}),
        "name": name, "task": task, "tasks": TASK_KINDS.values(), "names": next_numbers(request.team),
        "is_known": Dataset.objects.for_team(request.team).filter(name=name).exists(), "error": error,
    }  # fmt: skip
    return render(request, "datasets/draft.html", context, status=error.status if error else 200)


@policy("member")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return _page(request)


def _row(request: HttpRequest, row: DraftRow, *, error: ColdframeError | None = None, **typed: Any) -> HttpResponse:
    """The row by itself for the page's own requests, the page for others."""
    if not request.headers.get("HX-Request"):
        if error:
            raise error
        return redirect("datasets:draft")
    (item,) = selectors.shown_rows(request.team, [selectors.row_of(request.team, row.pk)], user=request.user)
    # A refusal is 200 here: htmx swaps no other answer in, and the row says what is wrong.
    return render(request, "datasets/_draft_row.html", {"item": item, "row_error": error, "typed": typed})


@policy("member")
@require_POST
def decide(request: HttpRequest, pk: int) -> HttpResponse:
    row = selectors.row_of(request.team, pk)
    draft_decide(rows=[row], user=request.user, is_kept=request.POST.get("keep") == "1")
    return _row(request, row)


@policy("member")
@require_POST
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    row = selectors.row_of(request.team, pk)
    typed: dict[str, Any] = {name: request.POST.get(name, "") for name in ("question", "answer")}
    typed["alone"] = request.POST.get("alone") == "1"
    try:
        draft_edit(row=row, user=request.user, **typed)
    except ColdframeError as error:
        return _row(request, row, error=error, **typed)
    return _row(request, row)


@policy("member")
@require_POST
def version(request: HttpRequest) -> HttpResponse:
    """Makes a version of what is kept; its progress is shown on the page of the file that it is read from."""
    try:
        run = draft_submit(
            team=request.team, user=request.user, name=request.POST.get("name", ""),
            task=request.POST.get("task") or "chat",
        )  # fmt: skip
    except ColdframeError as error:
        return _page(request, error=error)
    return redirect("datasets:upload", run.spec["upload"])


urlpatterns = [
    path("draft/", index, name="draft"),
    path("draft/version/", version, name="draft_version"),
    path("draft/<int:pk>/decide/", decide, name="draft_decide"),
    path("draft/<int:pk>/edit/", edit, name="draft_edit"),
]
