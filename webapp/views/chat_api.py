"""The API page: how to call the team's own names with curl and the openai client."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from jobs.stream import TEAM_QUEUE_LIMIT
from webapp.api.limits import EMBEDDING_NAME, MAX_CHOICES, MAX_INPUTS, MAX_N
from webapp.models import ApiToken
from webapp.policy import policy
from webapp.selectors import api_page
from webapp.services.asking import DEADLINE_S, MAX_STOP_LENGTH, MAX_STOPS


@policy("viewer")
@require_GET
def page(request: HttpRequest) -> HttpResponse:
    picked = api_page.labelled(request.team)
    context = {
        "address": request.build_absolute_uri("/").rstrip("/"),
        **api_page.names_shown(request.team),
        "labelled": picked.name,
        "labelled_now": picked.now,
        "choices": picked.as_json,
        "first_choice": picked.labels[0],
        "run": api_page.run_example(request.team),
        "collection": api_page.a_collection(request.team),
        "busy": api_page.busy(request.team),
        "base_model": settings.BASE_MODEL,
        "embedding": EMBEDDING_NAME,
        "max_inputs": MAX_INPUTS,
        "max_n": MAX_N,
        "max_choices": MAX_CHOICES,
        "length": settings.ENGINE_LENGTH,
        "max_stops": MAX_STOPS,
        "max_stop_length": MAX_STOP_LENGTH,
        "max_unfinished": TEAM_QUEUE_LIMIT,
        "max_upload_mb": settings.MAX_UPLOAD_BYTES // 1024**2,
        "minutes": DEADLINE_S // 60,
        "has_token": ApiToken.objects.for_team(request.team).filter(revoked_at__isnull=True).exists(),
    }
    return render(request, "chat/api.html", context)
