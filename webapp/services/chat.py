"""Writes on conversations: ask several targets at once, stop, ask again, rename, judge.

Guarantees: a question and its waiting answers are one transaction; the requests are queued together, after the commit,
as one group; when the queue cannot take them the question stays and its answers say why. The engine ends answers
through `answer_started`, `answer_finished` and `answer_failed` (webapp/services/answers.py), reader or no reader.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Max

from jobs import stream
from ml.errors import ColdframeError, NotFoundError, SpecError, UnavailableError
from webapp.models import Collection, Conversation, Feedback, Message, Team
from webapp.selectors.chat import OPEN, history_for, is_overdue
from webapp.selectors.targets import BASE, Target, resolve
from webapp.services.answers import answer_failed, answer_finished, answer_started, answers_expire
from webapp.services.asking import Sampling, check_served, clean_text, request_for, sampling_from
from webapp.services.drafts import draft_collect, draft_forget

__all__ = [
    "answer_failed", "answer_finished", "answer_regenerate", "answer_started", "answer_stop", "answers_expire", "ask",
    "conversation_create", "conversation_delete", "conversation_rename", "feedback_give",
]  # fmt: skip

logger = logging.getLogger(__name__)
MAX_TARGETS = 8
MAX_QUESTION = 32_000
UNTITLED = "New conversation"


def conversation_create(*, team: Team, user: Any, title: str = UNTITLED) -> Conversation:
    return Conversation.objects.create(team=team, created_by=user, title=title[:120] or UNTITLED, targets=[BASE])


def conversation_rename(*, conversation: Conversation, title: str) -> None:
    title = " ".join(clean_text(title, field="title", limit=1000).split())
    if not 1 <= len(title) <= 120:
        raise SpecError(f"A title has 1 to 120 characters, got {len(title)}.", field="title")
    Conversation.objects.filter(pk=conversation.pk).update(title=title)


def conversation_delete(*, conversation: Conversation) -> None:
    """Its running answers are stopped as well as that can be told to an engine now."""
    for message in conversation.messages.filter(state__in=OPEN):
        _cancel_quietly(message)
    draft_forget(conversation=conversation)
    conversation.delete()


def _cancel_quietly(message: Message) -> bool:
    try:
        stream.cancel(message.request_id.hex)
        return any(engine.get("state") != stream.DRAINED for engine in stream.engines())
    except UnavailableError as error:
        logger.warning("message %s could not be cancelled: %s", message.pk, error)
        return False


def _title_of(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:60].rsplit(" ", 1)[0].rstrip(",;:") + "…"


def _checked(text: str, targets: Sequence[str], team: Team) -> tuple[str, list[Target]]:
    text = clean_text(text, field="text", limit=MAX_QUESTION).strip()
    if not text:
        raise SpecError("The question is empty.", hint="Type a question, then send it.", field="text")
    wanted = list(dict.fromkeys(targets)) or [BASE]
    if len(wanted) > MAX_TARGETS:
        raise SpecError(f"At most {MAX_TARGETS} targets at once, got {len(wanted)}.", field="targets")
    found = [resolve(team=team, name=name) for name in wanted]
    for target in found:
        check_served(target)
    return text, found


def ask(
    *,
    conversation: Conversation,
    text: str,
    targets: Sequence[str],
    collection: Collection | None = None,
    sampling: Sampling | None = None,
) -> list[Message]:
    """The question's row, then one waiting answer a target. Raises SpecError or NotFoundError before any write."""
    sampling = sampling or Sampling()
    text, found = _checked(text, targets, conversation.team)
    with transaction.atomic():
        locked = Conversation.objects.select_for_update().filter(pk=conversation.pk).first()
        if locked is None:
            raise NotFoundError("This conversation was deleted meanwhile.")
        turn = (locked.messages.aggregate(last=Max("turn"))["last"] or 0) + 1
        question = Message.objects.create(
            team=locked.team, created_by=locked.created_by, conversation=locked, turn=turn, role=Message.Role.USER,
            content=text,
        )  # fmt: skip
        answers = [_answer_row(question, target, collection, sampling) for target in found]
        locked.targets = [target.asked for target in found]
        locked.collection, locked.settings = collection, sampling.as_dict()
        if turn == 1 and locked.title == UNTITLED:
            locked.title = _title_of(text)
        locked.save(update_fields=["targets", "collection", "settings", "title", "updated_at"])
        _submit_on_commit(question, list(zip(answers, found, strict=True)), collection, sampling)
    return [question, *answers]


def _answer_row(question: Message, target: Target, collection: Collection | None, sampling: Sampling) -> Message:
    searched = collection.pk if collection else target.frame.collection_id
    chosen = collection.pk if collection else None
    asked = {"name": target.asked, "collection": searched, "chosen": chosen, "sampling": sampling.as_dict()}
    return Message.objects.create(
        team=question.team, created_by=question.created_by, conversation=question.conversation, turn=question.turn,
        role=Message.Role.ASSISTANT, target=target.name, method=target.method, state=Message.State.QUEUED,
        info={"asked": asked},
    )  # fmt: skip


def _submit_on_commit(
    question: Message, answers: list[tuple[Message, Target]], collection: Collection | None, sampling: Sampling
) -> None:
    group = uuid.uuid4().hex
    requests = [
        request_for(
            target=target, team_id=question.team_id, sampling=sampling,
            messages=[*history_for(question, target), {"role": "user", "content": question.content}],
            collection_id=collection.pk if collection else None,
            id=message.request_id.hex, group=group, message_id=message.pk,
        )
        for message, target in answers
    ]  # fmt: skip
    transaction.on_commit(partial(_submit, requests))


def _submit(requests: list[stream.GenerateRequest]) -> None:
    try:
        stream.submit(requests)
    except ColdframeError as error:
        logger.warning("a group of %d requests was not queued: %s", len(requests), error)
        for request in requests:
            answer_failed(message_id=request.message_id or 0, error=error.as_dict())


def answer_stop(*, message: Message) -> None:
    """Asks the engine to stop; what nobody is working on is stopped at once."""
    is_worked_on = _cancel_quietly(message)
    waiting = (Message.State.QUEUED,) if is_worked_on else OPEN
    Message.objects.filter(pk=message.pk, state__in=waiting).update(state=Message.State.STOPPED)


def answer_regenerate(*, message: Message) -> Message:
    """A new answer in place of the old, which is kept but no longer shown. Refused while it is being written."""
    asked = message.info.get("asked", {})
    target = resolve(team=message.team, name=asked.get("name") or message.target)
    sampling = sampling_from(asked.get("sampling") or {})
    chosen = asked.get("chosen", asked.get("collection"))
    collection = Collection.objects.for_team(message.team).filter(pk=chosen).first()
    with transaction.atomic():
        rows = Message.objects.filter(pk=message.pk, is_superseded=False)
        if not is_overdue(message):
            rows = rows.exclude(state__in=OPEN)
        if not rows.update(is_superseded=True):
            raise ColdframeError(
                "This answer is still being written, or was asked again already.", hint="Stop it first.", status=409
            )
        question = message.conversation.messages.get(turn=message.turn, role=Message.Role.USER)
        answer = _answer_row(question, target, collection, sampling)
        _submit_on_commit(question, [(answer, target)], collection, sampling)
    return answer


@transaction.atomic
def feedback_give(*, message: Message, user: Any, is_good: bool, correction: str = "") -> Feedback:
    """One judgement a person; a second one replaces the first. What it teaches joins the team's draft."""
    correction = clean_text(correction, field="correction", limit=MAX_QUESTION).strip()
    feedback, _ = Feedback.objects.update_or_create(
        message=message, created_by=user,
        defaults={"team": message.team, "is_good": is_good, "correction": "" if is_good else correction},
    )  # fmt: skip
    draft_collect(feedback=feedback)
    return feedback
