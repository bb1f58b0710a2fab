"""One answer: its column, stop, ask again, judge; and what was corrected, as a file."""

from __future__ import annotations

import json

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

from webapp.models import Message
from webapp.policy import policy
from webapp.selectors import chat as selectors
from webapp.selectors.chat_page import answer_view
from webapp.services import chat as services


def _answer(request: HttpRequest, pk: int, answer: int) -> Message:
    conversation = selectors.conversation_of(team=request.team, user=request.user, pk=pk)
    return selectors.answer_of(conversation=conversation, pk=answer)


def _column(request: HttpRequest, pk: int, answer: int) -> HttpResponse:
    view = answer_view(_answer(request, pk, answer))
    return render(request, "chat/_answer.html", {"answer": view, "conversation": view.message.conversation})


@policy("viewer")
@require_GET
def show(request: HttpRequest, pk: int, answer: int) -> HttpResponse:
    return _column(request, pk, answer)


@policy("viewer")
@require_POST
def stop(request: HttpRequest, pk: int, answer: int) -> HttpResponse:
    services.answer_stop(message=_answer(request, pk, answer))
    return _column(request, pk, answer)


@policy("viewer")
@require_POST
def regenerate(request: HttpRequest, pk: int, answer: int) -> HttpResponse:
    new = services.answer_regenerate(message=_answer(request, pk, answer))
    return _column(request, pk, new.pk)


@policy("viewer")
@require_POST
def feedback(request: HttpRequest, pk: int, answer: int) -> HttpResponse:
    services.feedback_give(
        message=_answer(request, pk, answer), user=request.user,
        is_good=request.POST.get("good") == "1", correction=request.POST.get("correction", ""),
    )  # fmt: skip
    return _column(request, pk, answer)


@policy("viewer")
@require_GET
def corrections(request: HttpRequest) -> HttpResponse:
    """The reader's corrected answers in the form that the data set page takes: one {messages} a line."""
    lines = [
        json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
                   ensure_ascii=False)
        for question, answer in selectors.corrections_of(team=request.team, user=request.user)
    ]  # fmt: skip
    response = HttpResponse("".join(f"{line}\n" for line in lines), content_type="application/jsonl; charset=utf-8")
    response.headers["Content-Disposition"] = 'attachment; filename="corrections.jsonl"'
    return response
