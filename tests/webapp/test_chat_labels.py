"""An answer that is a label, in chat and through the API."""

from __future__ import annotations

from typing import Any

from django.template.loader import render_to_string

from webapp.models import Message, Team
from webapp.replies import Answer
from webapp.selectors.chat_page import answer_view
from webapp.services.chat import conversation_create

LABELS = [
    {"label": "billing <b>", "probability": 0.906}, {"label": "shipping", "probability": 0.061},
    {"label": "other", "probability": 0.02}, {"label": "praise", "probability": 0.013},
]  # fmt: skip


def test_chat_shows_the_likeliest_labels_under_the_answer(team: Team, member: Any) -> None:
    conversation = conversation_create(team=team, user=member)
    message = Message.objects.create(
        team=team, conversation=conversation, turn=1, role="assistant", target="intents@1", content="billing",
        info={"labels": LABELS},
    )  # fmt: skip
    page = render_to_string("chat/_answer.html", {"answer": answer_view(message), "conversation": conversation})
    assert "billing &lt;b&gt; 91 %, shipping 6 %, other 2 %" in page and "praise" not in page


def test_the_api_gives_all_labels_beside_openais_fields() -> None:
    assert Answer(done={"labels": LABELS}).extras()["labels"] == LABELS
    assert "labels" not in Answer().extras()
