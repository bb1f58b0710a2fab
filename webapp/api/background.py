"""Answers that go on when their reader leaves: what is kept of them, and who may join them again."""

from __future__ import annotations

from typing import Any

from jobs import stream
from ml.errors import NotFoundError
from webapp.api.answers import Asked
from webapp.errors import request_id_of
from webapp.live import Guard
from webapp.replies import Reply


async def keep(asked: Asked, request: stream.GenerateRequest) -> None:
    """`request`: the first of those that were asked."""
    record = {"team": request.team_id, "ids": list(asked.ids), "reply": asked.reply.shape()}
    await stream.akeep(asked.reply.id, record, deadline_s=request.deadline_s)


async def joined(request: Any, completion_id: str) -> Asked:
    """Raises NotFoundError, for another team's answer as well."""
    record = await stream.akept(completion_id)
    if record is None or record["team"] != request.team.pk:
        raise NotFoundError(
            f"Your team has no answer {completion_id[:80]!r} to join.",
            hint="Ask with background and stream; an answer is kept for an hour after its deadline.",
            code="completion_not_found",
        )  # fmt: skip
    asked = Asked(
        ids=record["ids"], reply=Reply.of_shape(record["reply"]), request_id=request_id_of(request),
        guard=Guard(request, level="viewer"), is_background=True,
    )  # fmt: skip
    return asked
