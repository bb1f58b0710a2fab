"""The memory panel of the form of a new run, asked for beside the rest of the plan so that this never waits."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_POST

from webapp.forms.runs import TrainForm
from webapp.policy import policy
from webapp.selectors.run_memory import memory_of


@policy("member")
@require_POST
def memory(request: HttpRequest) -> HttpResponse:
    """The bar and the verdict of what is typed so far."""
    form = TrainForm(request.POST, team=request.team)
    return render(request, "runs/_memory.html", {"memory": memory_of(form)})


@policy("member")
@require_POST
def fixes(request: HttpRequest) -> HttpResponse:
    """What would make it fit."""
    form = TrainForm(request.POST, team=request.team)
    return render(request, "runs/_fixes.html", {"memory": memory_of(form, wants_fixes=True)})


urlpatterns = [path("new/memory/", memory, name="memory"), path("new/fixes/", fixes, name="fixes")]
