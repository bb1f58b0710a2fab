"""The prompt library: what is refused, immutable versions, differences, pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.urls import reverse

from ml.errors import ColdframeError, SpecError
from tests.webapp.prompt_data import stored
from webapp.models import Adapter, AuditEvent, Collection, Message, Prompt, PromptVersion, Team
from webapp.selectors import prompts as selectors
from webapp.selectors.chat_page import answer_view
from webapp.selectors.diffs import side_by_side
from webapp.selectors.targets import names_of_team, resolve
from webapp.services.asking import Sampling, request_for
from webapp.services.chat import conversation_create
from webapp.services.prompt_content import MOST_EXAMPLES, content_check, template_check
from webapp.services.prompts import alias_move, prompt_create, version_create

SignIn = Callable[[Any], Client]
PAIRS = [{"question": "How far is the moon?", "answer": "number"}]
TYPED = {
    "name": "reply",
    "technique": "zero_shot",
    "system": "Be kind.",
    "template": "Q: {question}",
    "description": "",
}


@pytest.fixture
def version(team: Team, member: Any) -> PromptVersion:
    return prompt_create(team=team, user=member, name="reply", technique="few_shot", template="Q: {question}",
                         system="Be kind.", examples=PAIRS)  # fmt: skip


def test_an_unknown_placeholder_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"Unknown placeholders \{context\}, \{qestion\}"):
        template_check("{qestion} {context} {question}")


def test_a_template_must_say_where_the_question_goes() -> None:
    with pytest.raises(SpecError, match="where the question goes"):
        template_check("Answer kindly.")


def test_braces_that_name_nothing_are_text() -> None:
    text, fields = template_check('{"a": 1} {} { question } {{nothing}} {question}')
    assert text.endswith("{question}") and fields == ["question"]


@pytest.mark.parametrize(
    ("technique", "examples", "why"),
    [
        ("few_shot", [], "needs at least one example"),
        ("few_shot", [{"question": " ", "answer": ""}], "needs at least one example"),
        ("few_shot", [{"question": "a", "answer": " "}], "Example 1 has no answer"),
        ("few_shot", [*PAIRS, {"question": "", "answer": "b"}], "Example 2 has no question"),
        ("zero_shot", PAIRS, "Zero-shot has no examples, got 1"),
        ("few_shot", PAIRS * (MOST_EXAMPLES + 1), f"at most {MOST_EXAMPLES} examples"),
        ("telepathy", [], "Unknown technique 'telepathy'"),
    ],
)
def test_examples_must_suit_the_technique(technique: str, examples: list[dict[str, str]], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        content_check(technique=technique, template="{question}", examples=examples)


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(SpecError, match="at most 8,000 characters, got 8,010"):
        content_check(technique="zero_shot", template="{question}" + "x" * 8000)


def test_a_name_is_taken_once_a_team(team: Team, other_team: Team, member: Any, version: PromptVersion) -> None:
    with pytest.raises(SpecError, match="'reply' already"):
        prompt_create(team=team, user=member, name="reply", technique="zero_shot", template="{question}")
    theirs = prompt_create(team=other_team, user=None, name="reply", technique="zero_shot", template="{question}")
    assert theirs.number == 1


def test_an_edit_makes_the_next_version_and_leaves_the_old(member: Any, version: PromptVersion) -> None:
    second = version_create(prompt=version.prompt, user=member, technique="zero_shot", template="Say: {question}")
    version.refresh_from_db()
    assert second.number == 2 and version.template == "Q: {question}" and version.examples == PAIRS


def test_saving_without_a_change_makes_no_version(member: Any, version: PromptVersion) -> None:
    content = {key: getattr(version, key) for key in ("technique", "system", "template", "examples")}
    assert version_create(prompt=version.prompt, user=member, **content) == version


def test_what_is_shown_as_sent_is_what_chat_sends(team: Team, version: PromptVersion) -> None:
    asked = [{"role": "user", "content": "Why?"}]
    assert selectors.messages_for(version, "Why?") == resolve(team=team, name="prompt:reply").fold(asked)
    assert [m["content"] for m in selectors.messages_for(version, "Why?")] == [
        "Be kind.", "Q: How far is the moon?", "number", "Q: Why?",
    ]  # fmt: skip


def test_a_difference_marks_lines_and_the_words_inside_them() -> None:
    diff = side_by_side("Sort the question into one.\nLabels", "Sort the question by kind.\nNew line\nLabels")
    (left, right), (void, added), (same, _) = diff.rows
    assert (left.sign, right.sign, void.kind, added.sign, same.kind) == ("−", "+", "void", "+", "same")
    assert next(part.text for part in left.parts if not part.is_changed).startswith("Sort the question")
    assert "".join(part.text for part in right.parts) == "Sort the question by kind."
    assert (diff.n_added, diff.n_removed) == (2, 1)


def test_equal_texts_differ_in_nothing() -> None:
    assert side_by_side("a\nb", "a\nb").is_empty


def test_a_new_prompt_is_saved_from_the_form(client_of: SignIn, member: Any) -> None:
    data = {**TYPED, "technique": "few_shot", "example_question": ["a", ""], "example_answer": ["b", ""]}
    response = client_of(member).post(reverse("prompts:new"), data)
    assert response.status_code == 302
    assert PromptVersion.objects.get().examples == [{"question": "a", "answer": "b"}]


def test_a_refused_form_keeps_what_was_typed(client_of: SignIn, member: Any) -> None:
    data = {**TYPED, "technique": "few_shot", "template": "no slot, {what}", "example_question": ["kept?"],
            "example_answer": ["yes, kept"]}  # fmt: skip
    response = client_of(member).post(reverse("prompts:new"), data)
    page = response.content.decode()
    assert response.status_code == 422 and not Prompt.objects.exists()
    for text in ("Unknown placeholder {what}", "no slot, {what}", "kept?", "yes, kept", "Be kind."):
        assert text in page


def test_a_name_that_is_taken_is_told_at_the_name(client_of: SignIn, member: Any, version: PromptVersion) -> None:
    response = client_of(member).post(reverse("prompts:new"), TYPED)
    assert response.status_code == 422 and "There is a prompt" in response.context["form"].errors["name"][0]


def test_a_bad_name_and_a_bad_template_are_told_at_once(client_of: SignIn, member: Any) -> None:
    data = {**TYPED, "name": "two words", "template": "{nope}"}
    errors = client_of(member).post(reverse("prompts:new"), data).context["form"].errors
    assert "Got 'two words'" in errors["name"][0] and "{nope}" in errors["template"][0]


def test_the_page_of_a_prompt_shows_versions_difference_and_code(
    client_of: SignIn, viewer: Any, member: Any, version: PromptVersion
) -> None:
    version_create(prompt=version.prompt, user=member, technique="zero_shot", template="Say: {question}")
    page = client_of(viewer).get(reverse("prompts:detail", args=[version.prompt_id])).content.decode()
    for text in ("<del>", "<ins>", '"reply@2"', "newest", "/chat/?target=prompt%3Areply%402"):
        assert text in page
    assert "New version" not in page


def test_any_two_versions_can_be_compared(client_of: SignIn, viewer: Any, member: Any, version: PromptVersion) -> None:
    for text in ("two {question}", "three {question}"):
        version_create(prompt=version.prompt, user=member, technique="zero_shot", template=text)
    url = reverse("prompts:detail", args=[version.prompt_id])
    context = client_of(viewer).get(url, {"left": "3", "right": "1"}).context
    assert (context["left"].number, context["right"].number) == (3, 1)


def test_a_template_is_shown_as_text(client_of: SignIn, viewer: Any, team: Team) -> None:
    made = prompt_create(team=team, user=None, name="x", technique="zero_shot",
                         template="<script>alert(1)</script>{question}")  # fmt: skip
    page = client_of(viewer).get(reverse("prompts:detail", args=[made.prompt_id])).content.decode()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_the_preview_writes_nothing(client_of: SignIn, member: Any) -> None:
    response = client_of(member).post(reverse("prompts:preview"), {**TYPED, "sample": "Why is it dark?"})
    assert "Q: Why is it dark?" in response.content.decode() and not Prompt.objects.exists()


def test_the_preview_names_what_is_wrong(client_of: SignIn, member: Any) -> None:
    response = client_of(member).post(reverse("prompts:preview"), {**TYPED, "template": "{nope}"})
    assert "Unknown placeholder {nope}" in response.content.decode()


@pytest.mark.parametrize("name", ["detail", "version", "new_version"])
def test_another_team_does_not_find_it(client_of: SignIn, stranger: Any, version: PromptVersion, name: str) -> None:
    args = [version.prompt_id, 1] if name == "version" else [version.prompt_id]
    assert client_of(stranger).get(reverse(f"prompts:{name}", args=args)).status_code == 404


def test_another_team_cannot_add_a_version(client_of: SignIn, stranger: Any, version: PromptVersion) -> None:
    url = reverse("prompts:new_version", args=[version.prompt_id])
    assert client_of(stranger).post(url, TYPED).status_code == 404 and PromptVersion.objects.count() == 1


def test_a_viewer_writes_no_prompt(client_of: SignIn, viewer: Any) -> None:
    assert client_of(viewer).post(reverse("prompts:new"), TYPED).status_code == 403


def test_the_preview_is_never_a_get_and_a_prompt_is_never_deleted(
    client_of: SignIn, member: Any, version: PromptVersion
) -> None:
    client = client_of(member)
    assert client.get(reverse("prompts:preview")).status_code == 405
    assert client.delete(reverse("prompts:detail", args=[version.prompt_id])).status_code == 405


def test_the_list_is_filtered_by_technique(client_of: SignIn, viewer: Any, version: PromptVersion) -> None:
    client, url = client_of(viewer), reverse("prompts:index")
    assert "reply@<b>1</b>" in client.get(url, {"technique": "few_shot"}).content.decode()
    assert "No prompt matches" in client.get(url, {"technique": "zero_shot"}).content.decode()


def test_an_empty_list_leads_to_a_new_prompt(client_of: SignIn, viewer: Any) -> None:
    assert "Write the first prompt" in client_of(viewer).get(reverse("prompts:index")).content.decode()


CONTENT = {"technique": "zero_shot", "template": "Say: {question}"}


def test_of_two_people_editing_one_prompt_the_second_is_told_and_loses_nothing(
    client_of: SignIn, admin: Any, member: Any, version: PromptVersion
) -> None:
    """Both opened @1; the first saves @2; the second's words, a difference and a next step are shown."""
    url = reverse("prompts:new_version", args=[version.prompt_id])
    typed = {"technique": "zero_shot", "system": "", "base": "1"}
    assert client_of(admin).post(url, {**typed, "template": "First {question}"}).status_code == 302
    second = client_of(member).post(url, {**typed, "template": "Second {question}"})
    page = second.content.decode()
    assert second.status_code == 409 and version.prompt.versions.count() == 2
    for text in ("ada saved @2 while you edited @1", "Second {question}", "<ins>", "theirs, @2", "Save mine after @2"):
        assert text in page
    assert second.context["form"]["base"].value() == "2"
    assert client_of(member).post(url, {**typed, "base": "2", "template": "Second {question}"}).status_code == 302
    assert [v.template for v in version.prompt.versions.order_by("number")] == [
        "Q: {question}", "First {question}", "Second {question}",
    ]  # fmt: skip


def test_saving_what_another_has_just_saved_makes_no_version(member: Any, version: PromptVersion) -> None:
    second = version_create(prompt=version.prompt, user=member, base=1, **CONTENT)
    assert version_create(prompt=version.prompt, user=member, base=1, **CONTENT) == second


def test_an_alias_points_at_a_version_and_moves(team: Team, member: Any, version: PromptVersion) -> None:
    second = version_create(prompt=version.prompt, user=member, **CONTENT)
    alias_move(version=version, name="production", user=member)
    assert resolve(team=team, name="reply").name == "prompt:reply@1"
    alias_move(version=second, name="staging", user=member)
    assert resolve(team=team, name="prompt:reply@staging").name == "prompt:reply@2"
    assert resolve(team=team, name="reply@production").name == "prompt:reply@1"


def measured(value: float) -> dict[str, Any]:
    return {"test": {"accuracy": value, "intervals": {"accuracy": [value - 0.05, value + 0.05]}, "n_rows": 100}}


def test_production_is_held_back_until_better_was_shown_or_a_reason_is_given(
    team: Team, member: Any, version: PromptVersion
) -> None:
    data = stored(team)
    second = version_create(prompt=version.prompt, user=member, **CONTENT)
    alias_move(version=version, name="production", user=member)
    with pytest.raises(ColdframeError, match="@2 was not measured") as caught:
        alias_move(version=second, name="production", user=member)
    assert (caught.value.code, caught.value.field) == ("held_back", "reason")
    for row, value in ((version, 0.6), (second, 0.8)):
        PromptVersion.objects.filter(pk=row.pk).update(metrics=measured(value), dataset_version=data)
    alias_move(version=version.prompt.versions.get(number=2), name="production", user=member)
    with pytest.raises(ColdframeError, match=r"20\.0 points below"):
        alias_move(version=version.prompt.versions.get(number=1), name="production", user=member)
    alias_move(version=version.prompt.versions.get(number=1), name="production", user=member, reason="shorter")
    event = AuditEvent.objects.filter(action="prompt.alias").latest("pk")
    assert (event.subject, event.detail["reason"], event.detail["held_back"]) == ("reply@production", "shorter", True)


def test_an_alias_is_moved_on_the_page_and_a_refusal_keeps_what_was_typed(
    client_of: SignIn, member: Any, viewer: Any, version: PromptVersion
) -> None:
    version_create(prompt=version.prompt, user=member, **CONTENT)
    url, client = reverse("prompts:alias", args=[version.prompt_id]), client_of(member)
    assert client.post(url, {"name": "production", "version": 1, "reason": ""}).status_code == 302
    refused = client.post(url, {"name": "production", "version": 2, "reason": ""})
    assert refused.status_code == 422 and "production is held back" in refused.content.decode()
    assert client_of(viewer).post(url, {"name": "production", "version": 2}).status_code == 403
    page = client_of(viewer).get(reverse("prompts:detail", args=[version.prompt_id])).content.decode()
    assert "Version @1" in page and "reply@production" in page


def test_the_verdict_tells_before_the_move(client_of: SignIn, member: Any, version: PromptVersion) -> None:
    version_create(prompt=version.prompt, user=member, **CONTENT)
    alias_move(version=version, name="production", user=member)
    url = reverse("prompts:verdict", args=[version.prompt_id])
    page = client_of(member).get(url, {"name": "production", "version": "2"}).content.decode()
    assert "Held back" in page and "was not measured" in page


@pytest.mark.parametrize("name", ["alias", "verdict"])
def test_another_team_moves_no_alias(client_of: SignIn, stranger: Any, version: PromptVersion, name: str) -> None:
    url = reverse(f"prompts:{name}", args=[version.prompt_id])
    client = client_of(stranger)
    answer = client.post(url, {"name": "x", "version": 1}) if name == "alias" else client.get(url)
    assert answer.status_code == 404


def test_a_name_that_an_adapter_has_is_refused(team: Team, member: Any) -> None:
    Adapter.objects.create(team=team, name="triage")
    with pytest.raises(SpecError, match="There is an adapter 'triage'"):
        prompt_create(team=team, user=member, name="triage", **CONTENT)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"n_samples": 17, "answer_kind": "number"}, "n_samples"),
        ({"n_samples": 3}, "answer_kind"),
        ({"n_samples": 3, "answer_kind": "number", "sample_temperature": 0}, "sample_temperature"),
        ({"answer_kind": "after", "marker": ""}, "marker"),
        ({"fields": "two words"}, "fields"),
        ({"fields": ["a"] * 3 + [f"f{n}" for n in range(9)]}, "fields"),
    ],
)
def test_votes_rules_and_fields_that_cannot_work_are_told_at_the_field(content: dict[str, Any], field: str) -> None:
    given = {"technique": "chain_of_thought", "template": "{question}", **content}
    with pytest.raises(SpecError) as caught:
        content_check(**given)
    assert caught.value.field == field


def test_declared_fields_are_what_a_template_may_ask_for() -> None:
    found = content_check(technique="zero_shot", template="{title}: {text}", fields="title, text")
    assert found["fields"] == ["title", "text"]
    with pytest.raises(SpecError, match=r"Unknown placeholder \{question\}"):
        content_check(technique="zero_shot", template="{question}", fields="title, text")


def test_a_chain_of_thought_is_asked_for_with_votes_and_its_worked_examples(team: Team, member: Any) -> None:
    prompt_create(
        team=team, user=member, name="sums", technique="chain_of_thought", template="{question}", answer_kind="after",
        marker="Answer:", n_samples=5, sample_temperature=0.9,
        examples=[{"question": "1 + 1", "steps": "One and one.", "answer": "2"}],
    )  # fmt: skip
    made = request_for(target=resolve(team=team, name="sums@1"), team_id=team.pk, sampling=Sampling(),
                       messages=[{"role": "user", "content": "2 + 2"}])  # fmt: skip
    assert (made.n_samples, made.temperature, made.rule) == (5, 0.9, {"kind": "after", "marker": "Answer:"})
    assert made.repetition_penalty == 1.0
    assert made.messages[1]["content"] == "One and one.\nAnswer: 2"


def test_an_attached_collection_is_searched_for_what_was_typed(team: Team, member: Any) -> None:
    law, other = (Collection.objects.create(team=team, name=name) for name in ("law", "other"))
    prompt_create(team=team, user=member, name="ask", technique="zero_shot", template="Law: {question}", collection=law)
    target = resolve(team=team, name="ask")
    asked: dict[str, Any] = {"target": target, "team_id": team.pk, "sampling": Sampling(),
                             "messages": [{"role": "user", "content": "Whose tree?"}]}  # fmt: skip
    made = request_for(**asked)
    assert (made.collection_id, made.query) == (law.pk, "Whose tree?")
    assert request_for(**asked, collection_id=other.pk).collection_id == other.pk


def test_a_version_whose_collection_is_gone_answers_no_more(team: Team, member: Any, client_of: SignIn) -> None:
    law = Collection.objects.create(team=team, name="law")
    made = prompt_create(team=team, user=member, name="ask", technique="zero_shot", template="{question}",
                         collection=law)  # fmt: skip
    law.delete()
    assert resolve(team=team, name="ask").unserved == "its collection law was deleted."
    assert names_of_team(team) == ["base"]
    page = client_of(member).get(reverse("prompts:detail", args=[made.prompt_id])).content.decode()
    assert "This version answers no more" in page and "Try in chat" not in page


def test_a_difference_tells_more_than_the_texts(team: Team, member: Any, version: PromptVersion) -> None:
    data = stored(team)
    second = version_create(prompt=version.prompt, user=member, technique="few_shot", template="Q: {question}",
                            pick="nearest", k=4, dataset=data, system="Be kind.")  # fmt: skip
    diff = side_by_side(selectors.as_text(version), selectors.as_text(second))
    added = ["".join(part.text for part in right.parts) for _, right in diff.rows if right.kind == "add"]
    assert "for the data set: support@1" in added and any("4 training rows nearest" in line for line in added)


def test_chat_shows_the_answer_found_and_how_many_agree(team: Team, member: Any) -> None:
    conversation = conversation_create(team=team, user=member)
    votes = [{"answer": "4", "n": 3}, {"answer": "5", "n": 1}]
    message = Message.objects.create(
        team=team, conversation=conversation, turn=1, role="assistant", target="prompt:sums@1", content="so 4",
        info={"answer": "4", "agreement": 0.6, "votes": votes},
    )  # fmt: skip
    page = render_to_string("chat/_answer.html", {"answer": answer_view(message), "conversation": conversation})
    assert "Answer: <b>4</b>" in page and "3 of 5 agree; 1 for 5" in page
    message.info = {"answer": None, "agreement": 0.0, "votes": []}
    page = render_to_string("chat/_answer.html", {"answer": answer_view(message), "conversation": conversation})
    assert "none found" in page
