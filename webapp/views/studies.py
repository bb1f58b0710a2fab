"""Pages of what was measured on the same rows: the list of boards, and one data set version's leaderboards."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET

from webapp.policy import policy
from webapp.selectors import same_rows as selectors


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "studies/index.html", {"boards": selectors.boards(team=request.team)})


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """`pk` is a data set version's."""
    dataset, boards = selectors.boards_of(team=request.team, pk=pk)
    return render(request, "studies/detail.html", {"dataset": dataset, "boards": boards})


urlpatterns = [path("", index, name="index"), path("<int:pk>/", detail, name="detail")]
