"""Conversations: asking several targets, how answers end, what is refused, what is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs import stream_redis
from ml.errors import BusyError, ColdframeError, ContextTooLongError, NotFoundError, SpecError
from tests.conftest import NOWHERE
from tests.webapp.responder import SOURCES, Responder
from tests.webapp.test_targets import adapter_of
from webapp.models import Collection, Conversation, Dataset, DatasetVersion, Message
from webapp.selectors.chat import history_for, is_overdue, turns_of
from webapp.selectors.targets import resolve
from webapp.services import chat
from webapp.services.asking import Sampling


@pytest.fixture
def conversation(team, member) -> Conversation:
    return chat.conversation_create(team=team, user=member)


@pytest.fixture
def ask(conversation, django_capture_on_commit_callbacks) -> Any:
    def send(text: str = "Whose tree is it?", targets: tuple[str, ...] = ("base",), **more: Any) -> list[Message]:
        with django_capture_on_commit_callbacks(execute=True):
            return chat.ask(conversation=conversation, text=text, targets=targets, **more)

    return send


def test_one_question_to_two_targets_is_one_group_in_the_queue(redis_url, team, ask):
    adapter_of(team, "triage", 1)
    question, first, second = ask(targets=("base", "triage"))
    requests = Responder().take()
    assert [r.message_id for r in requests] == [first.pk, second.pk]
    assert requests[0].group == requests[1].group
    assert [r.artifact for r in requests] == [None, "triage1".ljust(64, "0")]
    assert requests[1].messages == [{"role": "user", "content": "Whose tree is it?"}]
    assert (question.role, question.turn, first.state, second.target) == ("user", 1, "queued", "triage@1")


def test_nothing_is_queued_before_the_commit(redis_url, conversation):
    chat.ask(conversation=conversation, text="Hello?", targets=["base"])
    assert Responder().take() == []


def test_an_answer_is_kept_with_its_sources_and_its_empty_markers_removed(redis_url, team, ask):
    collection = Collection.objects.create(team=team, name="law")
    _, answer = ask(collection=collection)
    engine = Responder()
    (request,) = engine.take()
    assert request.collection_id == collection.pk
    engine.answer(request, "Both owners [1], says the law [7].", SOURCES)
    answer.refresh_from_db()
    assert (answer.state, answer.content) == ("done", "Both owners [1], says the law.")
    assert answer.info["n_dropped_markers"] == 1
    assert [(c.number, c.is_cited) for c in answer.citations.all()] == [(1, True), (2, False)]
    assert (answer.info["engine"], answer.usage["completion_tokens"]) == ("scripted-1", 7)


def test_brackets_stay_where_nothing_was_searched(redis_url, ask):
    _, answer = ask()
    engine = Responder()
    engine.answer(engine.take()[0], "See a[1] and [2].")
    answer.refresh_from_db()
    assert answer.content == "See a[1] and [2]."


def test_the_end_of_an_answer_may_be_told_twice(redis_url, ask):
    _, answer = ask()
    assert chat.answer_started(message_id=answer.pk)
    assert chat.answer_started(message_id=answer.pk, info={"engine": "second"})
    assert chat.answer_finished(message_id=answer.pk, text="First.", sources=SOURCES)
    assert not chat.answer_finished(message_id=answer.pk, text="Second.", sources=SOURCES)
    assert not chat.answer_failed(message_id=answer.pk, error={"message": "late"})
    answer.refresh_from_db()
    assert (answer.content, answer.state, answer.error) == ("First.", "done", None)


def test_the_end_of_a_deleted_answer_is_no_error(db):
    assert not chat.answer_finished(message_id=12345, text="Nobody is there.")


def test_redis_down_at_submit_keeps_the_question_and_says_so(ask):
    stream_redis.configure(NOWHERE)
    try:
        question, answer = ask("Is anybody there?")
    finally:
        stream_redis.configure("")
    answer.refresh_from_db()
    assert Message.objects.get(pk=question.pk).content == "Is anybody there?"
    assert (answer.state, answer.error["code"]) == ("failed", "unavailable")


def test_a_full_queue_keeps_the_question_and_says_so(redis_url, ask, monkeypatch):
    def full(requests: Any) -> None:
        raise BusyError("Your team has 400 unfinished requests.", hint="Try again in some seconds.")

    monkeypatch.setattr("webapp.services.chat.stream.submit", full)
    _, answer = ask()
    answer.refresh_from_db()
    assert (answer.state, answer.error["code"]) == ("failed", "busy")


def test_a_failed_answer_is_asked_again(redis_url, ask, django_capture_on_commit_callbacks):
    _, answer = ask(sampling=Sampling(seed=4))
    engine = Responder()
    engine.fail(engine.take()[0], ContextTooLongError("The prompt has 3,000 tokens; 1,792 fit."))
    answer.refresh_from_db()
    assert answer.error["message"] == "The prompt has 3,000 tokens; 1,792 fit."
    with django_capture_on_commit_callbacks(execute=True):
        again = chat.answer_regenerate(message=answer)
    (request,) = engine.take()
    assert (request.message_id, request.seed) == (again.pk, 4)
    answer.refresh_from_db()
    assert answer.is_superseded
    assert [a.pk for a in turns_of(again.conversation)[0].answers] == [again.pk]


def test_an_answer_being_written_is_not_asked_again(redis_url, ask):
    _, answer = ask()
    with pytest.raises(ColdframeError, match="still being written") as caught:
        chat.answer_regenerate(message=answer)
    assert caught.value.status == 409


def test_stop_while_nothing_works_on_it_stops_at_once(redis_url, ask):
    _, answer = ask()
    engine = Responder()
    chat.answer_stop(message=answer)
    answer.refresh_from_db()
    assert answer.state == "stopped"
    assert engine.is_cancelled(engine.take()[0])


def test_stop_while_an_engine_writes_keeps_what_there_was(redis_url, ask):
    _, answer = ask()
    engine = Responder()
    engine.beat()
    (request,) = engine.take()
    engine.start(request)
    engine.say(request, "Half an ans")
    answer.refresh_from_db()
    chat.answer_stop(message=answer)
    engine.finish(request, reason="cancelled")
    answer.refresh_from_db()
    assert (answer.state, answer.content) == ("stopped", "Half an ans")


def test_a_second_question_brings_the_targets_own_answer_along(redis_url, team, ask):
    adapter_of(team, "triage", 1)
    ask("First?", targets=("base", "triage"))
    engine = Responder()
    for request, text in zip(engine.take(), ("Plain.", "Trained."), strict=True):
        engine.answer(request, text)
    ask("Second?", targets=("base", "triage"))
    told = [[m["content"] for m in request.messages] for request in engine.take()]
    assert told == [["First?", "Plain.", "Second?"], ["First?", "Trained.", "Second?"]]


def test_history_is_cut_before_it_grows_without_bound(redis_url, ask, team):
    engine = Responder()
    for number in range(12):
        question, _ = ask(f"{number}?")
        engine.answer(engine.take()[0], "x" * 100)
    history = history_for(question, resolve(team=team, name="base"))
    assert [m["content"] for m in history if m["role"] == "user"] == [f"{n}?" for n in range(3, 11)]


def test_a_classifier_is_asked_greedily_without_history_or_penalty(redis_url, team, ask):
    dataset = Dataset.objects.create(team=team, name="d")
    version = DatasetVersion.objects.create(
        team=team, dataset=dataset, number=1, sha256="a" * 64, task="classification", mapping={"prompt": "Q: {text}"}
    )
    adapter_of(team, "intents", 1, dataset_version=version)
    ask("First?", targets=("intents",), sampling=Sampling(temperature=1.0))
    engine = Responder()
    engine.answer(engine.take()[0], "weather")
    ask("Second?", targets=("intents",), sampling=Sampling(temperature=1.0))
    (request,) = engine.take()
    assert request.messages == [{"role": "user", "content": "Q: Second?"}]
    assert (request.temperature, request.repetition_penalty) == (0.0, 1.0)


@pytest.mark.parametrize("text", ["", "   ", "\x00", "x" * 32_001])
def test_an_empty_or_endless_question_leaves_nothing_behind(conversation, text):
    with pytest.raises(SpecError) as caught:
        chat.ask(conversation=conversation, text=text, targets=["base"])
    assert caught.value.field == "text"
    assert not Message.objects.exists()


def test_an_unknown_target_leaves_nothing_behind(conversation):
    with pytest.raises(NotFoundError):
        chat.ask(conversation=conversation, text="Hello?", targets=["base", "nobody"])
    assert not Message.objects.exists()


def test_nine_targets_are_too_many(team, conversation):
    adapter_of(team, "triage", *range(1, 9))
    with pytest.raises(SpecError, match="At most 8 targets at once, got 9"):
        chat.ask(conversation=conversation, text="?", targets=["base", *(f"triage@{n}" for n in range(1, 9))])


def test_the_first_question_names_the_conversation(redis_url, ask, conversation):
    ask("My lights went out\nand the fuse is fine. What should I do about that, please?")
    conversation.refresh_from_db()
    assert conversation.title == "My lights went out and the fuse is fine. What should I do…"


def test_answers_that_nobody_wrote_in_time_are_overdue_and_expire(redis_url, ask):
    _, answer = ask()
    assert chat.answers_expire() == 0
    later = timezone.now() + timedelta(minutes=12)
    Message.objects.filter(pk=answer.pk).update(created_at=timezone.now() - timedelta(minutes=12))
    answer.refresh_from_db()
    assert is_overdue(answer)
    assert chat.answers_expire(now=later) == 1
    answer.refresh_from_db()
    assert (answer.state, answer.error["code"]) == ("failed", "overdue")


def test_a_second_judgement_replaces_the_first(redis_url, ask, member):
    _, answer = ask()
    chat.feedback_give(message=answer, user=member, is_good=False, correction="Both own it.")
    chat.feedback_give(message=answer, user=member, is_good=True, correction="ignored")
    assert [(f.is_good, f.correction) for f in answer.feedback.all()] == [(True, "")]


def test_deleting_a_conversation_stops_its_answers(redis_url, ask, conversation):
    ask()
    engine = Responder()
    (request,) = engine.take()
    chat.conversation_delete(conversation=conversation)
    assert engine.is_cancelled(request)
    assert not Message.objects.exists()
    engine.answer(request, "Too late.")
