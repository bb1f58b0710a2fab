"""Pages of what adapters reached on the same rows outside of studies: the list of boards, one data set version's."""

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
    context = {"boards": selectors.boards(team=request.team), "may_write": request.principal.may("member")}
    return render(request, "same_rows/index.html", context)


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """`pk` is a data set version's."""
    dataset, boards = selectors.boards_of(team=request.team, pk=pk)
    context = {"dataset": dataset, "boards": boards, "may_write": request.principal.may("member")}
    return render(request, "same_rows/detail.html", context)


urlpatterns = [
    path("same-rows/", index, name="boards"),
    path("same-rows/<int:pk>/", detail, name="board"),
]
