"""For machines that watch: `/healthz`, is everything ready (needs no account), and `/metrics` (needs METRICS_TOKEN)."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from webapp.policy import policy
from webapp.selectors.exposition import exposition
from webapp.selectors.health import health

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@policy("public")
@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when every part is ready, else 503; the body says which is not."""
    answer = health()
    response = JsonResponse(answer, status=200 if answer["ready"] else 503)
    # Django logs every 5xx as an error; this one is an answer, and asked for every second while parts start.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


@policy("operator", takes_token=True, is_api=True)
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """What Prometheus scrapes; figures of the whole installation, so that no team's token opens it."""
    return HttpResponse(exposition(), content_type=PROMETHEUS)
