"""The times and the memory beside the form of a new study, asked for by themselves so that the rest never waits."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_POST

from webapp.forms.studies import StudyForm
from webapp.policy import policy
from webapp.selectors.study_plan import plan_of_study


@policy("member")
@require_POST
def times(request: HttpRequest) -> HttpResponse:
    """What is typed so far, planned."""
    form = StudyForm(request.POST, team=request.team)
    spec = form.spec if form.is_valid() else None
    found = plan_of_study(team=request.team, version=form.version, spec=spec)
    return render(request, "studies/_times.html", {"plan": found})


urlpatterns = [path("new/times/", times, name="times")]
