"""The chat page: asking through it, what it shows, whose it is."""

from __future__ import annotations

import json
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.webapp.prompt_data import stored
from tests.webapp.responder import SOURCES, Responder
from tests.webapp.test_targets import adapter_of
from webapp.models import Collection, Conversation, Document, DocumentVersion, Message
from webapp.services import chat


@pytest.fixture
def client(member, client_of) -> Client:
    return client_of(member)


@pytest.fixture
def post(client, django_capture_on_commit_callbacks) -> Any:
    def send(name: str, *numbers: int, part: bool = False, **fields: Any) -> Any:
        headers = {"X-Part": "1"} if part else {}
        with django_capture_on_commit_callbacks(execute=True):
            return client.post(reverse(f"chat:{name}", args=numbers), fields, headers=headers)

    return send


@pytest.fixture
def answered(redis_url, team, post, member) -> Message:
    """A conversation of `member` with one finished answer that cites."""
    collection = Collection.objects.create(team=team, name="law")
    post("start", text="Whose tree is it?", target=["base"], collection=collection.pk)
    engine = Responder()
    engine.answer(engine.take()[0], "Both owners [1]. <script>alert(1)</script>", SOURCES)
    return Message.objects.get(role="assistant")


def page(response: Any) -> str:
    return response.content.decode()


def test_the_empty_page_says_what_to_do(client, team):
    html = page(client.get(reverse("chat:index")))
    assert "Ask several tasks at once" in html
    assert 'data-chip="base"' in html


def test_a_target_in_the_address_is_chosen(client, team):
    adapter_of(team, "triage", 1)
    html = page(client.get(reverse("chat:index"), {"target": ["base", "triage@1"]}))
    assert 'data-chip="base"' in html and 'data-chip="triage@1"' in html


def test_an_unknown_target_in_the_address_is_said_and_the_page_still_works(client, team):
    response = client.get(reverse("chat:index"), {"target": "triagee"})
    assert response.status_code == 200
    assert "Your team has no model &#x27;triagee&#x27;" in page(response)


def test_the_first_question_makes_a_conversation_and_leads_to_it(redis_url, post, member):
    response = post("start", text="Hello?", target=["base"])
    conversation = Conversation.objects.get()
    assert response.url == reverse("chat:detail", args=[conversation.pk])
    assert (conversation.title, conversation.created_by) == ("Hello?", member)
    assert len(Responder().take()) == 1


def test_the_pages_module_is_told_where_the_conversation_is(redis_url, post):
    response = post("start", part=True, text="Hello?", target=["base"])
    assert (response.status_code, response.headers["Location"]) == (201, f"/chat/{Conversation.objects.get().pk}/")


def test_a_refused_first_question_makes_no_conversation_and_keeps_the_words(post, team):
    response = post("start", text="Hello there?", target=["nobody"])
    assert response.status_code == 404
    assert "Hello there?" in page(response)
    assert not Conversation.objects.exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": "9"}, "temperature must be a number from 0 to 2, got &#x27;9&#x27;."),
        ({"max_tokens": "0"}, "max_tokens must be a whole number from 1 to 2048, got &#x27;0&#x27;."),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"collection": "77"}, "Your team has no collection &#x27;77&#x27;."),
        ({"text": " "}, "The question is empty."),
    ],
)
def test_what_is_refused_is_said_with_the_value_received(post, team, fields, said):
    response = post("start", part=True, **({"text": "Hello?", "target": ["base"]} | fields))
    assert response.status_code in (400, 404)
    assert said in page(response)


def test_another_question_comes_back_as_a_turn(answered, post):
    response = post("ask", answered.conversation_id, part=True, text="And the fence?", target=["base"])
    html = page(response)
    assert 'data-turn="2"' in html and "data-open" in html and "And the fence?" in html


def test_a_finished_answer_is_shown_with_chips_sources_and_nothing_alive(answered, client):
    html = page(client.get(reverse("chat:detail", args=[answered.conversation_id])))
    assert 'data-n="1"' in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    data = html.split(f'<script id="answer-data-{answered.pk}" type="application/json">')[1].split("</script>")[0]
    assert [s["title"] for s in json.loads(data)["sources"]] == ["boundary-tree-opinion.pdf", "survey.md"]


def test_a_citation_leads_to_its_passage_while_the_document_is_there(answered, client, team):
    collection = Collection.objects.get()
    document = Document.objects.create(team=team, collection=collection, title="opinion.pdf")
    version = DocumentVersion.objects.create(
        team=team, document=document, number=1, sha256="a" * 64, filename="opinion.pdf", size_bytes=1, text="x" * 99
    )
    answered.citations.filter(number=1).update(version=version)
    url = reverse("chat:answer", args=[answered.conversation_id, answered.pk])
    where = f"/collections/{collection.pk}/documents/{document.pk}/"
    link = f"{where}?version={version.pk}\\u0026start=10\\u0026end=90#passage"
    assert link in page(client.get(url))
    Document.objects.update(is_deleted=True)
    assert link not in page(client.get(url))


def test_an_open_answer_can_be_stopped_and_is_then_shown_as_stopped(redis_url, post, client):
    post("start", text="Hello?", target=["base"])
    answer = Message.objects.get(role="assistant")
    html = page(post("stop", answer.conversation_id, answer.pk))
    assert "Stopped before the first word." in html


def test_regenerate_gives_a_new_waiting_column(answered, post):
    html = page(post("regenerate", answered.conversation_id, answered.pk))
    new = Message.objects.get(role="assistant", is_superseded=False)
    assert new.pk != answered.pk
    assert f'id="answer-{new.pk}"' in html and 'aria-busy="true"' in html


def test_a_correction_is_kept_and_can_be_taken_away_as_data(answered, post, client):
    html = page(post("feedback", answered.conversation_id, answered.pk, correction="Both own it."))
    assert "Your correction" in html
    line = client.get(reverse("chat:corrections")).content.decode()
    assert json.loads(line)["messages"] == [
        {"role": "user", "content": "Whose tree is it?"}, {"role": "assistant", "content": "Both own it."}
    ]  # fmt: skip


def test_rename_and_delete(answered, post, client):
    pk = answered.conversation_id
    post("rename", pk, title="  Fir on   the line ")
    assert Conversation.objects.get().title == "Fir on the line"
    assert post("rename", pk, title=" ").status_code == 400
    assert post("delete", pk).url == reverse("chat:index")
    assert not Message.objects.exists()


def test_conversations_are_their_makers_alone(answered, admin, viewer, client_of):
    for other in (admin, viewer):
        client = client_of(other)
        assert client.get(reverse("chat:detail", args=[answered.conversation_id])).status_code == 404
        assert "Whose tree" not in page(client.get(reverse("chat:index")))
        url = reverse("chat:answer", args=[answered.conversation_id, answered.pk])
        assert client.get(url).status_code == 404


def test_an_answer_is_not_reached_through_another_conversation(answered, client, team, member):
    mine = chat.conversation_create(team=team, user=member)
    assert client.get(reverse("chat:answer", args=[mine.pk, answered.pk])).status_code == 404


def test_a_viewer_may_ask(redis_url, viewer, client_of, team):
    response = client_of(viewer).post(reverse("chat:start"), {"text": "Hello?", "target": "base"})
    assert response.status_code == 302
    assert Message.objects.get(role=Message.Role.USER).created_by == viewer


def test_the_box_says_that_no_engine_runs(redis_url, client, team):
    assert "The engine is not running; your question is kept" in page(client.get(reverse("chat:engine")))
    Responder().beat(state="loading the model")
    assert "The engine is getting ready" in page(client.get(reverse("chat:engine")))
    Responder().beat()
    assert page(client.get(reverse("chat:engine"))).strip() == ""


def test_the_box_says_that_the_queue_is_down(client, team):
    assert "The queue (Redis) does not answer" in page(client.get(reverse("chat:engine")))


def test_the_api_page_uses_the_teams_own_names(client, team):
    adapter = adapter_of(team, "triage", 1)
    adapter.aliases.create(team=team, name="production", version=adapter.versions.get())
    html = page(client.get(reverse("chat:api")))
    assert "triage@production" in html
    assert "http://testserver" in html
    for path in ("/v1/completions", "/v1/batches", "/v1/files", "/v1/collections/{name}/search"):
        assert path in html
    assert "<script>" not in html and "Used just now" not in html, "Redis is away"


def test_the_api_page_asks_for_the_teams_own_labels(client, team, other_team, redis_url):
    theirs = stored(other_team, name="secret", train=(("a", "their label"), ("b", "other")))
    adapter_of(other_team, "theirs", 1, dataset_version=theirs)
    adapter_of(team, "triage", 1, dataset_version=stored(team))
    Responder().beat(rows=[{"team_id": team.pk}, {"team_id": other_team.pk}])
    html = unescape(page(client.get(reverse("chat:api"))))
    assert '["billing", "internet", "outage"]' in html and "their label" not in html and "theirs" not in html
    assert '"dataset"</span>: "support@1"' in html
    assert "1 of 8 rows" in html
