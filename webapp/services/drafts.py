"""Judged answers become rows of the team's draft, which members keep, drop or edit.

Guarantees: a judgement has at most one row, which follows it (a second judgement replaces the row while it is not in a
version); deleting a conversation takes its rows out of the draft; what is in a version stays there, with its origin.
Who may see what: the row shows its team's members what was asked and answered; the conversation itself stays its
maker's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from ml.errors import ColdframeError, NotFoundError
from webapp.models import Conversation, DraftRow, Feedback, Message
from webapp.selectors.chat import history_for
from webapp.selectors.drafts import is_pending
from webapp.selectors.targets import resolve
from webapp.services.asking import clean_text
from webapp.services.teams import audit

MAX_ANSWER = 32_000


def digest_of_texts(*texts: str) -> str:
    """Equal for texts that differ in case and white space only."""
    folded = "\x1e".join(" ".join(text.casefold().split()) for text in texts)
    return hashlib.blake2b(folded.encode(), digest_size=8).hexdigest()


def digests_of(messages: Sequence[dict[str, str]], answer: str) -> dict[str, str]:
    """Of the last question, whatever was said before it, and of everything with its answer."""
    asked = [message["content"] for message in messages if message["role"] != "system"]
    return {"question_digest": digest_of_texts(asked[-1]), "digest": digest_of_texts(*asked, answer)}


@transaction.atomic
def draft_collect(*, feedback: Feedback) -> DraftRow | None:
    """The row of a judgement: its answer where that was good, else the correction; none for a bare thumb down."""
    message = feedback.message
    answer = (message.content if feedback.is_good else feedback.correction).strip()
    known = DraftRow.objects.select_for_update().filter(feedback=feedback).first()
    if known is not None and (known.state == DraftRow.State.STORED or is_pending(known)):
        # What is in a version stays; the new judgement gets a row of its own.
        DraftRow.objects.filter(pk=known.pk).update(feedback=None)
        known = None
    question = _question_of(message)
    if not answer or question is None:
        if known is not None:
            known.delete()
        return None
    messages = [*_history_of(message, question), {"role": "user", "content": question.content}]
    values = {
        "team": feedback.team, "created_by": feedback.created_by, "messages": messages, "answer": answer,
        "said": message.content, "kind": DraftRow.Kind.GOOD if feedback.is_good else DraftRow.Kind.CORRECTED,
        "state": DraftRow.State.KEPT, "edited_by": None, "run": None, **digests_of(messages, answer),
        "origin": {
            "conversation": message.conversation_id, "message": message.pk, "turn": message.turn,
            "target": message.target, "at": message.created_at.isoformat(),
        },
    }  # fmt: skip
    row, _ = DraftRow.objects.update_or_create(feedback=feedback, defaults=values)
    return row


def _question_of(message: Message) -> Message | None:
    return message.conversation.messages.filter(turn=message.turn, role=Message.Role.USER).first()


def _history_of(message: Message, question: Message) -> list[dict[str, str]]:
    """Earlier turns as the target saw them; none for a target that is gone or takes none."""
    try:
        target = resolve(team=message.team, name=message.target)
    except NotFoundError:
        return []
    return history_for(question, target)


def draft_forget(*, conversation: Conversation) -> int:
    """Takes the rows of a conversation that is being deleted out of the draft; returns how many."""
    rows = DraftRow.objects.for_team(conversation.team).filter(origin__conversation=conversation.pk)
    n_gone, _ = rows.exclude(state=DraftRow.State.STORED).delete()
    return n_gone


@transaction.atomic
def draft_decide(*, rows: Sequence[DraftRow], user: Any, is_kept: bool) -> int:
    """Keeps or drops rows; those on their way into a version are left alone. Returns how many changed."""
    state = DraftRow.State.KEPT if is_kept else DraftRow.State.DROPPED
    open_rows = [row for row in rows if row.state != DraftRow.State.STORED and not is_pending(row)]
    n = DraftRow.objects.filter(pk__in=[row.pk for row in open_rows]).exclude(state=state).update(state=state)
    if n:
        action = "draft.keep" if is_kept else "draft.drop"
        audit(team=rows[0].team, user=user, action=action, subject=f"{n} rows", rows=[row.pk for row in open_rows])
    return n


@transaction.atomic
def draft_edit(*, row: DraftRow, user: Any, question: str, answer: str, alone: bool = False) -> DraftRow:
    """Another question or answer, `alone` without the turns before it; the row is kept then.

    Raises ColdframeError for empty text (400) and for a stored row (409).
    """
    row = DraftRow.objects.select_for_update().get(pk=row.pk)
    if row.state == DraftRow.State.STORED or is_pending(row):
        raise ColdframeError("This row is in a version, which never changes.", status=409,
                             hint="Judge the answer again in chat to get a new row.")  # fmt: skip
    texts = {}
    for field, given in (("question", question), ("answer", answer)):
        texts[field] = clean_text(given, field=field, limit=MAX_ANSWER).strip()
        if not texts[field]:
            raise ColdframeError(f"The {field} is empty.", field=field, hint="Drop the row if it is not to be learnt.")
    messages = [*([] if alone else row.messages[:-1]), {"role": "user", "content": texts["question"]}]
    row.messages, row.answer, row.state, row.edited_by = messages, texts["answer"], DraftRow.State.KEPT, user
    for name, value in digests_of(messages, row.answer).items():
        setattr(row, name, value)
    row.save()
    audit(team=row.team, user=user, action="draft.edit", subject=row)
    return row
