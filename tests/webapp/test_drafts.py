"""From chat to data: judged answers become draft rows, reviewed rows become versions, each with its origin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.errors import ColdframeError, SpecError
from tests.webapp.uploading import rung, store, work
from webapp.models import AuditEvent, Conversation, DatasetVersion, DraftRow, DraftUse, Message, Run
from webapp.selectors import drafts as selectors
from webapp.selectors.dataset_rows import as_jsonl, rows_of, rows_page
from webapp.services import chat
from webapp.services.datasets import version_from_rows
from webapp.services.draft_versions import draft_submit
from webapp.services.drafts import draft_decide, draft_edit

pytestmark = pytest.mark.django_db
__all__ = ["rung", "store"]
Say = Callable[..., Message]


@pytest.fixture
def conversation(team: Any, member: Any) -> Conversation:
    return Conversation.objects.create(team=team, created_by=member, title="Support")


@pytest.fixture
def say(conversation: Conversation) -> Say:
    """A question of the conversation and its answer; returns the answer."""

    def _say(question: str, answer: str = "I do not know.") -> Message:
        turn = conversation.messages.count() + 1
        mine = {"team": conversation.team, "created_by": conversation.created_by, "conversation": conversation}
        Message.objects.create(**mine, turn=turn, role=Message.Role.USER, content=question)
        return Message.objects.create(**mine, turn=turn, role=Message.Role.ASSISTANT, content=answer, target="base")

    return _say


@pytest.fixture
def judge(say: Say, member: Any) -> Callable[..., DraftRow]:
    """A judged answer's row: corrected where a correction is given, else good."""

    def _judge(question: str, answer: str, *, correction: str = "") -> DraftRow:
        message = say(question, answer)
        chat.feedback_give(message=message, user=member, is_good=not correction, correction=correction)
        return DraftRow.objects.get(origin__message=message.pk)

    return _judge


def test_a_thumb_up_keeps_the_answer_and_a_correction_what_it_should_have_been(judge: Any, member: Any) -> None:
    good = judge("Who owns it?", "Both of them.")
    assert (good.kind, good.answer, good.question, good.created_by) == ("good", "Both of them.", "Who owns it?", member)
    corrected = judge("Since when?", "Never.", correction="Since May.")
    assert (corrected.kind, corrected.answer, corrected.said) == ("corrected", "Since May.", "Never.")
    assert corrected.origin["target"] == "base"


def test_earlier_turns_come_along_as_the_target_saw_them(judge: Any) -> None:
    judge("Who owns it?", "Both of them.")
    assert judge("Since when?", "May.").messages == [
        {"role": "user", "content": "Who owns it?"},
        {"role": "assistant", "content": "Both of them."},
        {"role": "user", "content": "Since when?"},
    ]


def test_a_second_judgement_replaces_the_row_and_a_bare_thumb_down_takes_it_back(say: Say, member: Any) -> None:
    message = say("Who?", "You.")
    chat.feedback_give(message=message, user=member, is_good=True)
    chat.feedback_give(message=message, user=member, is_good=False, correction="Both.")
    assert [row.answer for row in DraftRow.objects.all()] == ["Both."]
    chat.feedback_give(message=message, user=member, is_good=False)
    assert not DraftRow.objects.exists()


def test_deleting_the_conversation_takes_its_rows_out_of_the_draft(judge: Any, conversation: Conversation) -> None:
    judge("Who?", "You.")
    chat.conversation_delete(conversation=conversation)
    assert not DraftRow.objects.exists()


def test_the_review_page_shows_rows_with_their_origin_and_what_to_know(judge: Any, member: Any, client_of: Any) -> None:
    first = judge("Who owns it?", "Me.", correction="Both <b>own</b> it.")
    judge("who  owns it?", "You.")
    page = client_of(member).get("/datasets/draft/").content.decode()
    assert "Both &lt;b&gt;own&lt;/b&gt; it." in page
    assert f"message {first.origin['message']} of conversation {first.origin['conversation']}" in page
    assert "Make a version of 2 rows" in page


def test_answers_to_one_question_that_differ_are_flagged(judge: Any, team: Any, member: Any) -> None:
    rows = [judge("Who owns it?", "Me."), judge("who  OWNS it?", "You.")]
    assert [item.contradicts for item in selectors.shown_rows(team, rows, user=member)] == [1, 1]


def test_another_reader_sees_the_row_but_no_way_into_the_conversation(judge: Any, admin: Any, client_of: Any) -> None:
    row = judge("Who?", "You.")
    page = client_of(admin).get("/datasets/draft/").content.decode()
    assert "You." in page
    assert f'href="/chat/{row.origin["conversation"]}/' not in page


def test_viewers_and_other_teams_review_nothing(judge: Any, viewer: Any, stranger: Any, client_of: Any) -> None:
    row = judge("Who?", "You.")
    assert client_of(viewer).get("/datasets/draft/").status_code == 403
    assert client_of(stranger).post(f"/datasets/draft/{row.pk}/decide/", {"keep": "0"}).status_code == 404
    assert b"You." not in client_of(stranger).get("/datasets/draft/").content


def test_a_viewers_judgement_is_collected_for_members_to_review(team: Any, viewer: Any, admin: Any) -> None:
    mine = {"team": team, "created_by": viewer}
    conversation = Conversation.objects.create(**mine)
    Message.objects.create(**mine, conversation=conversation, turn=1, role="user", content="Who?")
    answer = Message.objects.create(**mine, conversation=conversation, turn=1, role="assistant", content="You.")
    chat.feedback_give(message=answer, user=viewer, is_good=True)
    assert [row.created_by for row in selectors.kept_of(team)] == [viewer]


def test_rows_are_dropped_kept_and_edited_on_the_page(judge: Any, member: Any, client_of: Any) -> None:
    row, client = judge("Who?", "You."), client_of(member)
    client.post(f"/datasets/draft/{row.pk}/decide/", {"keep": "0"})
    row.refresh_from_db()
    assert row.state == "dropped"
    part = client.post(
        f"/datasets/draft/{row.pk}/edit/",
        {"question": "Who owns it?", "answer": "Both."},
        headers={"HX-Request": "true"},
    )
    row.refresh_from_db()
    assert (row.state, row.question, row.answer, row.edited_by) == ("kept", "Who owns it?", "Both.", member)
    assert b"edited by max" in part.content
    assert AuditEvent.objects.filter(action__startswith="draft.").count() == 2


def test_the_turns_before_a_question_can_be_left_out(judge: Any, member: Any, client_of: Any) -> None:
    judge("Who?", "You.")
    row = judge("Since when?", "May.")
    client_of(member).post(
        f"/datasets/draft/{row.pk}/edit/", {"question": "Since when?", "answer": "May.", "alone": "1"}
    )
    row.refresh_from_db()
    assert row.messages == [{"role": "user", "content": "Since when?"}]


def test_an_edit_without_an_answer_is_refused_and_what_was_typed_stays(judge: Any, member: Any, client_of: Any) -> None:
    row = judge("Who?", "You.")
    part = client_of(member).post(
        f"/datasets/draft/{row.pk}/edit/", {"question": "Typed", "answer": " "}, headers={"HX-Request": "true"}
    )
    assert b"The answer is empty." in part.content
    assert b"Typed" in part.content
    row.refresh_from_db()
    assert row.answer == "You."


def test_two_clicks_make_a_version_in_which_every_row_knows_its_origin(
    judge: Any, team: Any, member: Any, client_of: Any, store: Path, rung: Any
) -> None:
    kept = [judge(f"Question {i}?", f"Answer {i}.") for i in range(3)]
    dropped = judge("Question 9?", "Wrong.")
    draft_decide(rows=[dropped], user=member, is_kept=False)
    answer = client_of(member).post("/datasets/draft/version/", {"name": "from-chat", "task": "chat"})
    run = Run.objects.get()
    assert answer["Location"] == f"/datasets/uploads/{run.spec['upload']}/"
    version = work(run, store / "work")
    assert version is not None
    assert (str(version), version.task, version.n_rows) == ("from-chat@1", "chat", 3)
    assert {row.state for row in DraftRow.objects.filter(pk__in=[row.pk for row in kept])} == {"stored"}
    origins = {row["row"]: row["origin"]["message"] for row in rows_page(version)["rows"]}
    assert origins == {place: row.origin["message"] for place, row in enumerate(kept, start=1)}
    exported = [json.loads(line) for line in as_jsonl(version)]
    assert all(row["origin"]["by"] == "max" for row in exported)


def test_rows_that_say_the_same_are_taken_once_and_not_again(
    judge: Any, team: Any, member: Any, store: Path, rung: Any
) -> None:
    judge("Who owns it?", "Both.")
    Message.objects.all().update(turn=99)
    again = judge("who OWNS it?", "both.")
    DraftRow.objects.filter(pk=again.pk).update(digest=DraftRow.objects.first().digest)  # type: ignore[union-attr]
    version = work(draft_submit(team=team, user=member, name="x", task="chat"), store / "work")
    assert version is not None and version.n_rows == 1
    assert sorted(DraftRow.objects.values_list("state", flat=True)) == ["dropped", "stored"]
    with pytest.raises(ColdframeError, match="No row of the draft is kept"):
        draft_submit(team=team, user=member, name="x", task="chat")


@pytest.fixture
def queue(team: Any, member: Any, store: Path) -> DatasetVersion:
    rows = [{"text": f"message {i}", "label": ["outage", "billing"][i % 2]} for i in range(40)]
    mapping = {"task": "classification", "prompt": "Queue of {{this}}: {text} ?", "completion": "{label}"}
    return version_from_rows(team=team, user=member, name="queue", rows=rows, mapping=mapping)


def test_a_name_that_exists_gets_its_next_version_in_its_own_form(
    queue: DatasetVersion, judge: Any, team: Any, member: Any, store: Path, rung: Any
) -> None:
    judge("My lamp is dark", "billing", correction="outage")
    judge("message 3", "billing")
    version = work(draft_submit(team=team, user=member, name="queue"), store / "work")
    assert version is not None
    assert (version.number, version.mapping, version.n_rows) == (2, queue.mapping, 41)
    before = {(row["messages"][-1]["content"], row["split"]) for row in rows_of(queue)}
    after = {(row["messages"][-1]["content"], row["split"]) for row in rows_of(version)}
    assert after - before == {("Queue of {this}: My lamp is dark ?", "train")}
    assert not before - after
    assert DraftUse.objects.get().version == version


def test_origins_of_earlier_rows_stay_with_them_in_the_next_version(
    judge: Any, team: Any, member: Any, store: Path, rung: Any
) -> None:
    first = judge("One?", "1")
    work(draft_submit(team=team, user=member, name="x", task="generation"), store / "one")
    second = judge("Two?", "2")
    version = work(draft_submit(team=team, user=member, name="x"), store / "two")
    assert version is not None and version.number == 2
    by_text = {row["completion"]: row["row"] for row in rows_of(version)}
    origins = selectors.origins_of(version)
    assert origins[by_text["1"]]["message"] == first.origin["message"]
    assert origins[by_text["2"]]["message"] == second.origin["message"]


def test_a_question_that_is_held_out_is_not_trained_on(
    queue: DatasetVersion, judge: Any, team: Any, member: Any, store: Path, rung: Any
) -> None:
    held = next(row for row in rows_of(queue, "test"))
    question = held["messages"][-1]["content"].removeprefix("Queue of {this}: ").removesuffix(" ?")
    judge(question, "meter")
    judge("My lamp is dark", "outage")
    version = work(draft_submit(team=team, user=member, name="queue"), store / "work")
    assert version is not None and version.stats["leakage"]["n"] == 0
    assert sorted(DraftRow.objects.values_list("answer", "state")) == [("meter", "dropped"), ("outage", "stored")]


def test_a_data_set_of_several_columns_is_refused_with_a_way_out(
    judge: Any, team: Any, member: Any, store: Path, rung: Any
) -> None:
    rows = [{"a": f"x {i}", "b": "y", "c": "no" if i % 2 else "yes"} for i in range(20)]
    mapping = {"task": "classification", "prompt": "{a} {b}", "completion": "{c}"}
    version_from_rows(team=team, user=member, name="two", rows=rows, mapping=mapping)
    judge("Who?", "You.")
    with pytest.raises(SpecError, match="made of other columns") as caught:
        draft_submit(team=team, user=member, name="two")
    assert "another name" in caught.value.hint
    assert not Run.objects.exists()


def test_a_run_that_fails_leaves_the_draft_as_it_was(
    judge: Any, team: Any, member: Any, store: Path, rung: Any
) -> None:
    row = judge("Who?", "You.")
    run = draft_submit(team=team, user=member, name="x", task="chat")
    row.refresh_from_db()
    assert selectors.is_pending(row)
    with pytest.raises(ColdframeError, match="in a version"):
        draft_edit(row=row, user=member, question="a", answer="b")
    Run.objects.filter(pk=run.pk).update(state=Run.State.FAILED)
    assert [kept.pk for kept in selectors.kept_of(team)] == [row.pk]


def test_judging_a_stored_answer_again_makes_a_new_row(
    judge: Any, team: Any, member: Any, store: Path, rung: Any
) -> None:
    row = judge("Who?", "You.")
    work(draft_submit(team=team, user=member, name="x", task="chat"), store / "work")
    message = Message.objects.get(pk=row.origin["message"])
    chat.feedback_give(message=message, user=member, is_good=False, correction="Both.")
    assert sorted(DraftRow.objects.values_list("answer", "state")) == [("Both.", "kept"), ("You.", "stored")]


def test_the_list_of_datasets_says_that_answers_wait(judge: Any, member: Any, viewer: Any, client_of: Any) -> None:
    judge("Who?", "You.")
    assert b"1 answer judged in chat" in client_of(member).get("/datasets/").content
    assert b"judged in chat" not in client_of(viewer).get("/datasets/").content
