"""Open streams end when their reader loses the right to read: suspended, demoted, signed out, or the token revoked.

Each stream asks its Guard at every turn of its loop; the database is asked at most every three seconds, so that the cut
comes within five. No connection to the database is held between two checks.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Iterable
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection
from django.http import StreamingHttpResponse

from webapp.models import ROLE_RANK, ApiToken, Membership, Role
from webapp.policy import Principal

CHECK_S = 3.0


def event_stream(lines: Iterable[str] | AsyncIterable[str]) -> StreamingHttpResponse:
    """Server-sent events, which nobody on the way may keep or change."""
    response = StreamingHttpResponse(lines, content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-cache, no-transform"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def is_still_allowed(principal: Principal, *, level: str = "viewer", session_key: str | None = None) -> bool:
    """True while member, token and session still stand as they did when the stream began."""
    token = principal.token
    if token is not None and not ApiToken.objects.filter(pk=token.pk, revoked_at__isnull=True).exists():
        return False
    if session_key and not import_module(settings.SESSION_ENGINE).SessionStore().exists(session_key):
        return False
    membership = Membership.objects.filter(
        team=principal.team, user=principal.user, is_suspended=False, user__is_active=True
    ).first()
    return membership is not None and ROLE_RANK[Role(membership.role)] >= ROLE_RANK[Role(level)]


class Guard:
    """One a stream."""

    def __init__(self, request: Any, *, level: str = "viewer") -> None:
        self._principal: Principal = request.principal
        has_session = self._principal.token is None
        self._session_key: str | None = request.session.session_key if has_session else None
        self._level = level
        self._checked = time.monotonic()

    async def holds(self) -> bool:
        if time.monotonic() - self._checked < CHECK_S:
            return True
        self._checked = time.monotonic()
        return await sync_to_async(self._ask)()

    def _ask(self) -> bool:
        try:
            return is_still_allowed(self._principal, level=self._level, session_key=self._session_key)
        finally:
            if not connection.in_atomic_block:
                connection.close()
