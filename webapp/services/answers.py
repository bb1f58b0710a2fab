"""How an answer moves from waiting to its end. Called by the engine's process, and by the web when a part is down.

Every move is a conditional update, checked by its row count: telling the same end twice changes nothing, and an answer
that has ended stays as it is. Each function returns whether it changed the row; messages of deleted conversations are
no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from webapp.citations import settle
from webapp.models import Citation, Conversation, DocumentVersion, Message
from webapp.selectors.chat import DEADLINE_S, OPEN, OVERDUE_AFTER

OVERDUE = {
    "code": "overdue",
    "message": f"No engine answered within {DEADLINE_S // 60} minutes.",
    "hint": "Look on the Models page whether the engine runs, then ask again.",
    "permanent": False,
}


def _answers(message_id: int) -> QuerySet[Message]:
    return Message.objects.filter(pk=message_id, role=Message.Role.ASSISTANT)


def _move(message_id: int, allowed: Q, *, info: Mapping[str, Any], **changes: Any) -> Message | None:
    """The row as it was before, when it was in an allowed state and is now changed."""
    message = _answers(message_id).filter(allowed).first()
    if message is None:
        return None
    changed = _answers(message_id).filter(allowed).update(info={**message.info, **info}, **changes)
    return message if changed else None


def answer_started(*, message_id: int, info: Mapping[str, Any] | None = None) -> bool:
    """The engine has begun; `info` is the stream's start event. Safe to repeat after an engine has died."""
    moved = _move(message_id, Q(state__in=OPEN), info=info or {}, state=Message.State.STREAMING)
    return moved is not None


def answer_finished(
    *,
    message_id: int,
    text: str,
    sources: Sequence[Mapping[str, Any]] = (),
    finish_reason: str = "stop",
    usage: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
) -> bool:
    """Keeps the answer, its figures and what it stands on. `sources` is the list of the stream's sources event."""
    cited = settle(text, {int(s["n"]) for s in sources})
    stopped = finish_reason == "cancelled"
    allowed = Q(state__in=OPEN) | Q(state=Message.State.STOPPED, content="")
    figures = {**(info or {}), "finish_reason": finish_reason, "n_dropped_markers": cited.n_dropped}
    with transaction.atomic():
        message = _move(
            message_id, allowed, info=figures, content=cited.text.replace("\x00", ""), usage=dict(usage or {}),
            error=None, state=Message.State.STOPPED if stopped else Message.State.DONE,
        )  # fmt: skip
        if message is None:
            return False
        _keep_sources(message, sources, cited.numbers)
        Conversation.objects.filter(pk=message.conversation_id).update(updated_at=timezone.now())
    return True


def answer_failed(
    *, message_id: int, error: Mapping[str, Any], text: str = "", info: Mapping[str, Any] | None = None
) -> bool:
    """Keeps why there is no answer, and as much of it as there was."""
    moved = _move(
        message_id, Q(state__in=OPEN), info=info or {}, content=text.replace("\x00", ""), error=dict(error),
        state=Message.State.FAILED,
    )  # fmt: skip
    return moved is not None


def answers_expire(*, now: datetime | None = None) -> int:
    """Fails the answers whose deadline has passed with no engine to say so. For the reconciler; returns how many."""
    due = Message.objects.filter(
        role=Message.Role.ASSISTANT, state__in=OPEN, created_at__lt=(now or timezone.now()) - OVERDUE_AFTER
    )
    return due.update(state=Message.State.FAILED, error=OVERDUE)


def _keep_sources(message: Message, sources: Sequence[Mapping[str, Any]], cited: frozenset[int]) -> None:
    """Citations as they were given; document versions of other teams or gone meanwhile are not linked."""
    wanted = {s.get("document_version_id") for s in sources}
    versions = set(DocumentVersion.objects.for_team(message.team_id).filter(pk__in=wanted).values_list("pk", flat=True))
    Citation.objects.bulk_create(
        [
            Citation(
                team_id=message.team_id, created_by_id=message.created_by_id, message=message, number=int(s["n"]),
                version_id=s.get("document_version_id") if s.get("document_version_id") in versions else None,
                title=str(s.get("title", ""))[:255], text=str(s.get("text", "")), page=s.get("page"),
                start=int(s.get("start") or 0), end=int(s.get("end") or 0), score=float(s.get("score") or 0),
                is_cited=int(s["n"]) in cited,
            )
            for s in sources
        ],
        ignore_conflicts=True,
    )  # fmt: skip
