"""Two versions of a data set compared: the page at once, what was found when it is there."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET

from ml.errors import ColdframeError
from webapp import storage
from webapp.models import DatasetVersion
from webapp.policy import policy
from webapp.selectors import datasets as selectors
from webapp.selectors.dataset_diffs import shown
from webapp.services.dataset_diffs import diff_find, diff_key


def _pair(request: HttpRequest, pk: int) -> tuple[DatasetVersion, DatasetVersion]:
    """The versions asked for; by default the newest and the one before it."""
    dataset = selectors.dataset_of(request.team, pk)
    new = selectors.version_of(dataset, request.GET.get("new", ""))
    before = dataset.versions.filter(number__lt=new.number).values_list("number", flat=True).first()
    return selectors.version_of(dataset, request.GET.get("old", "") or before or new.number), new


def _context(old: DatasetVersion, new: DatasetVersion) -> dict[str, Any]:
    return {"dataset": new.dataset, "old": old, "new": new}


@policy("viewer")
@require_GET
def page(request: HttpRequest, pk: int) -> HttpResponse:
    old, new = _pair(request, pk)
    context = {**_context(old, new), "versions": new.dataset.versions.all()}
    if storage.exists(diff_key(old, new)):
        context["diff"] = shown(diff_find(old=old, new=new))
    return render(request, "datasets/diff.html", context)


@policy("viewer")
@require_GET
def found(request: HttpRequest, pk: int) -> HttpResponse:
    """What changed, by itself; takes seconds the first time two large versions are compared."""
    old, new = _pair(request, pk)
    context = _context(old, new)
    try:
        context["diff"] = shown(diff_find(old=old, new=new))
    except ColdframeError as error:
        context["error"] = error
    return render(request, "datasets/_diff.html", context)


urlpatterns = [
    path("<int:pk>/diff/", page, name="diff"),
    path("<int:pk>/diff/found/", found, name="diff_found"),
]
