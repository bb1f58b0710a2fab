"""Errors as responses: a page for people, a fragment for htmx, OpenAI's JSON shape for API clients."""

from __future__ import annotations

import re
import uuid

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from ml.errors import BusyError, ColdframeError
from webapp.replies import error_body

API_PATH = "/v1/"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def request_id_of(request: HttpRequest) -> str:
    """Names an API request, by the client's own `x-request-id` where it sent a good one; it is sent back as that."""
    if not hasattr(request, "cf_request_id"):
        given = request.headers.get("X-Request-ID") or request.headers.get("X-Client-Request-Id") or ""
        is_good = _REQUEST_ID.fullmatch(given) is not None
        request.cf_request_id = given if is_good else f"rq_{uuid.uuid4().hex[:16]}"
    return str(request.cf_request_id)


def error_response(request: HttpRequest, error: ColdframeError, *, is_api: bool = False) -> HttpResponse:
    """The error in the shape that the asker can read. Nothing of other teams is ever in it."""
    if is_api or request.headers.get("Accept", "").startswith("application/json"):
        body = error_body(error, request_id_of(request))
        response: HttpResponse = JsonResponse(body, status=error.status)
        response.headers["X-Request-ID"] = request_id_of(request)
    else:
        partial = bool(getattr(request, "htmx", False))
        template = "_parts/problem.html" if partial else "error.html"
        response = render(request, template, {"error": error}, status=error.status)
    if isinstance(error, BusyError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response
