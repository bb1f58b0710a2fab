"""Reads of conversations. A conversation is its maker's alone: for anyone else it does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from django.db.models import Prefetch, QuerySet
from django.utils import timezone

from ml.errors import NotFoundError
from webapp.models import Citation, Collection, Conversation, Feedback, Message, Team
from webapp.selectors.targets import Target

OPEN = (Message.State.QUEUED, Message.State.STREAMING)
DEADLINE_S = 600
"""Seconds after which an answer that nobody began or finished is given up."""
OVERDUE_AFTER = timedelta(seconds=DEADLINE_S + 60)
MAX_LISTED = 200
MAX_HISTORY_TURNS = 8
MAX_HISTORY_CHARS = 16_000


def conversations_of(*, team: Team, user: Any) -> QuerySet[Conversation]:
    return Conversation.objects.for_team(team).filter(created_by=user)


def conversation_of(*, team: Team, user: Any, pk: int) -> Conversation:
    found = conversations_of(team=team, user=user).select_related("team", "collection").filter(pk=pk).first()
    if found is None:
        raise NotFoundError("There is no such conversation.", hint="Conversations are seen by their maker only.")
    return found


def answer_of(*, conversation: Conversation, pk: int) -> Message:
    rows = _with_parts(conversation.messages.filter(role=Message.Role.ASSISTANT))
    message = rows.select_related("team", "conversation").filter(pk=pk).first()
    if message is None:
        raise NotFoundError("There is no such answer in this conversation.")
    return message


def collection_of(*, team: Team, given: str) -> Collection | None:
    """The collection by number, or None for an empty choice. Raises NotFoundError."""
    if not given:
        return None
    is_number = given.isascii() and given.isdigit() and len(given) < 10
    found = Collection.objects.for_team(team).filter(pk=given).first() if is_number else None
    if found is None:
        raise NotFoundError(
            f"Your team has no collection {given[:40]!r}.", hint="Choose one in the list.", field="collection"
        )
    return found


def _corrected(team: Team, user: Any) -> QuerySet[Feedback]:
    rows = Feedback.objects.for_team(team).filter(created_by=user, message__conversation__created_by=user)
    return rows.exclude(correction="").select_related("message").order_by("pk")


def n_corrections(*, team: Team, user: Any) -> int:
    return _corrected(team, user).count()


def corrections_of(*, team: Team, user: Any) -> list[tuple[str, str]]:
    """Questions with the answers that they should have had."""
    rows = list(_corrected(team, user))
    asked = Message.objects.for_team(team).filter(
        role=Message.Role.USER, conversation__in={row.message.conversation_id for row in rows}
    )
    questions = {(m.conversation_id, m.turn): m.content for m in asked}
    found = [(questions.get((row.message.conversation_id, row.message.turn)), row.correction) for row in rows]
    return [(question, correction) for question, correction in found if question]


def _day(then: date, today: date) -> str:
    days = (today - then).days
    if days <= 0:
        return "Today"
    if days == 1:
        return "Yesterday"
    return "Last seven days" if days < 7 else then.strftime("%B %Y")


def days_of(rows: Iterable[Conversation]) -> list[tuple[str, list[Conversation]]]:
    """Conversations, newest first, under the day they were last used on."""
    today = timezone.localdate()
    days: dict[str, list[Conversation]] = {}
    for row in rows:
        days.setdefault(_day(timezone.localdate(row.updated_at), today), []).append(row)
    return list(days.items())


@dataclass(frozen=True)
class Turn:
    """A question and the answers that are shown beside one another."""

    question: Message
    answers: list[Message]

    @property
    def number(self) -> int:
        return self.question.turn

    @property
    def is_open(self) -> bool:
        return any(is_open(answer) for answer in self.answers)


def _with_parts(rows: QuerySet[Message]) -> QuerySet[Message]:
    return rows.prefetch_related(
        Prefetch("citations", Citation.objects.select_related("version__document")),
        Prefetch("feedback", Feedback.objects.all()),
    )


def turns_of(conversation: Conversation, *, number: int | None = None) -> list[Turn]:
    rows = _with_parts(conversation.messages.filter(is_superseded=False))
    if number is not None:
        rows = rows.filter(turn=number)
    turns: dict[int, Turn] = {}
    for message in rows:
        if message.role == Message.Role.USER:
            turns[message.turn] = Turn(message, [])
        elif message.turn in turns:
            turns[message.turn].answers.append(message)
    for turn in turns.values():
        turn.answers.sort(key=lambda m: _place(conversation, m))
    return list(turns.values())


def _place(conversation: Conversation, message: Message) -> tuple[int, int]:
    """Columns keep their places when an answer is asked again."""
    names = conversation.targets
    asked = message.info.get("asked", {}).get("name", message.target)
    return (names.index(asked) if asked in names else len(names), message.pk)


def is_overdue(message: Message) -> bool:
    """Still waiting though its deadline is long over: no engine was there to say so."""
    return message.state in OPEN and message.created_at < timezone.now() - OVERDUE_AFTER


def is_open(message: Message) -> bool:
    return message.state in OPEN and not is_overdue(message)


def _bare(name: str) -> str:
    return name.partition("@")[0]


def history_for(question: Message, target: Target) -> list[dict[str, str]]:
    """Earlier questions with this target's own answers, oldest first; another's where it has none.

    At most eight turns and 16,000 characters; what does not fit the context after that is dropped by the engine, which
    says so.
    """
    if not target.frame.takes_history:
        return []
    past: dict[int, dict[str, Any]] = {}
    rows = Message.objects.filter(
        conversation=question.conversation_id, turn__lt=question.turn, turn__gte=question.turn - MAX_HISTORY_TURNS,
        is_superseded=False, state__in=(Message.State.DONE, Message.State.STOPPED),
    )  # fmt: skip
    for message in rows.exclude(content="").order_by("turn", "pk"):
        pair = past.setdefault(message.turn, {})
        if message.role == Message.Role.USER:
            pair["question"] = message.content
        elif "answer" not in pair or _bare(message.target) == _bare(target.name):
            pair["answer"] = message.content
    return _latest_that_fit([pair for _, pair in sorted(past.items()) if len(pair) == 2])


def _latest_that_fit(pairs: list[dict[str, Any]]) -> list[dict[str, str]]:
    kept: list[dict[str, str]] = []
    room = MAX_HISTORY_CHARS
    for pair in reversed(pairs):
        room -= len(pair["question"]) + len(pair["answer"])
        if room < 0:
            break
        kept[:0] = [{"role": "user", "content": pair["question"]}, {"role": "assistant", "content": pair["answer"]}]
    return kept
