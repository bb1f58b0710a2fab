"""A study's report as a download, for its page and the API. It is a file made by us of texts that others wrote."""

from __future__ import annotations

from django.http import HttpResponse

from webapp.models import Study
from webapp.selectors.study_rows import REPORTS, report_of


def report_response(study: Study, ending: str) -> HttpResponse:
    """Always an attachment; should a browser show it all the same, it runs and loads nothing. Raises NotFoundError."""
    path, name = report_of(study, ending)
    response = HttpResponse(path.read_bytes(), content_type=REPORTS[ending])
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
