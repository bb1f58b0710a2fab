"""Errors of the API in OpenAI's shape, each with the id of its request."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from ml.errors import BusyError, ColdframeError, SpecError
from webapp.api.limits import RETRY_AFTER_S
from webapp.api.schemas import REFUSED
from webapp.errors import request_id_of
from webapp.replies import error_body

logger = logging.getLogger(__name__)


def respond(request: HttpRequest, error: ColdframeError) -> HttpResponse:
    request_id = request_id_of(request)
    if error.status >= 500:
        logger.warning("request %s: %s", request_id, error)
    response = JsonResponse(error_body(error, request_id), status=error.status)
    response.headers["X-Request-ID"] = request_id
    if isinstance(error, BusyError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    elif error.status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def spec_error(problem: dict[str, Any]) -> SpecError:
    """The first thing wrong, in our words: `param` is its path, the message has the value received."""
    # ("body", name of the view's argument, field, …), or ("query", field)
    where = [str(part) for part in problem.get("loc", ())]
    path = where[2:] if where[:1] == ["body"] else where[1:]
    name = ".".join(part for part in path if part not in ("str", "list[TextPart]", "list[str]")) or "body"
    if problem.get("type") == "extra_forbidden":
        text = REFUSED.get(path[-1], f"Unknown field {name!r:.80}.")
        return SpecError(text, hint="Leave it out.", field=name)
    if problem.get("type") == "missing":
        return SpecError(f"The field {name} is missing.", field=name)
    return SpecError(f"{name}: {problem.get('msg', 'not valid')}, got {problem.get('input')!r:.80}.", field=name)


def add_handlers(api: NinjaAPI) -> None:
    """Every way to fail ends in the one shape."""

    @api.exception_handler(ColdframeError)
    def coldframe_error(request: HttpRequest, error: ColdframeError) -> HttpResponse:
        return respond(request, error)

    @api.exception_handler(ValidationError)
    def validation_error(request: HttpRequest, error: ValidationError) -> HttpResponse:
        return respond(request, spec_error(error.errors[0] if error.errors else {}))

    @api.exception_handler(RequestDataTooBig)
    def too_big(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
        given = ColdframeError("A body may have 4 MB.", hint="Send less at once.", code="body_too_large", status=413)
        return respond(request, given)

    @api.exception_handler(HttpError)
    def http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
        given = SpecError("The body is no valid JSON.", hint="Send one JSON object.", field="body")
        if error.status_code != 400:
            given = ColdframeError(str(error), status=error.status_code)
        return respond(request, given)
