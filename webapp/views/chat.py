"""Pages of chat: conversations, asking, the API page. Single answers: chat_answers; streams: chat_stream."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.views.decorators.http import require_GET, require_POST

from jobs import stream
from ml.errors import ColdframeError, NotFoundError
from webapp.models import Collection, Conversation
from webapp.policy import policy
from webapp.selectors import chat as selectors
from webapp.selectors.chat_page import glyph_of, label_of, turn_views
from webapp.selectors.targets import BASE, Target, choices, resolve, unserved_error
from webapp.services import chat as services
from webapp.services.asking import Sampling, sampling_from
from webapp.views import chat_answers, chat_api, chat_stream

PART = "X-Part"
"""Header of the page's own module: it wants a fragment, not a page."""


def _chips(request: HttpRequest, names: list[str]) -> tuple[list[Target], list[ColdframeError]]:
    """The targets above the box; a name that is gone or cannot be asked is left out, and said."""
    found: list[Target] = []
    gone: list[ColdframeError] = []
    for name in dict.fromkeys(names):
        try:
            target = resolve(team=request.team, name=name)
        except NotFoundError as error:
            gone.append(error)
            continue
        if target.unserved:
            gone.append(unserved_error(target.asked, target.unserved))
        else:
            found.append(target)
    return found or [resolve(team=request.team, name=BASE)], gone


def _page(request: HttpRequest, conversation: Conversation | None, **extra: Any) -> HttpResponse:
    typed = request.POST if request.method == "POST" else request.GET
    kept = conversation or Conversation(settings={})
    wanted = typed.getlist("target") or kept.targets or [BASE]
    chips, gone = _chips(request, wanted)
    rows = selectors.conversations_of(team=request.team, user=request.user)
    turns = turn_views(conversation, selectors.turns_of(conversation)) if conversation else []
    context = {
        "conversation": conversation,
        "days": selectors.days_of(rows[: selectors.MAX_LISTED]),
        "n_corrections": selectors.n_corrections(team=request.team, user=request.user),
        "may_write": request.principal.may("member"),
        "turns": turns,
        "chips": [{"target": chip, "glyph": glyph_of(chip.method)} for chip in chips],
        "choices": [
            {"choice": c, "glyph": glyph_of(c.method), "kind": label_of(c.method)} for c in choices(request.team)
        ],
        "gone": gone,
        "collections": Collection.objects.for_team(request.team),
        "collection_id": str(typed.get("collection", kept.collection_id or "")),
        "sampling": {**Sampling().as_dict(), **kept.settings},
        "typed": typed.get("text", ""),
        "length": settings.ENGINE_LENGTH,
        **extra,
    }
    return render(request, "chat/index.html", context, status=extra["error"].status if "error" in extra else 200)


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return _page(request, None)


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    return _page(request, selectors.conversation_of(team=request.team, user=request.user, pk=pk))


def _ask(request: HttpRequest, conversation: Conversation | None) -> tuple[Conversation, int]:
    sampling = sampling_from(request.POST)
    collection = selectors.collection_of(team=request.team, given=request.POST.get("collection", ""))
    with transaction.atomic():
        conversation = conversation or services.conversation_create(team=request.team, user=request.user)
        rows = services.ask(
            conversation=conversation, text=request.POST.get("text", ""), targets=request.POST.getlist("target"),
            collection=collection, sampling=sampling,
        )  # fmt: skip
    return conversation, rows[0].turn


def _asked(request: HttpRequest, known: Conversation | None) -> HttpResponse:
    is_part = PART in request.headers
    try:
        conversation, turn = _ask(request, known)
    except ColdframeError as error:
        if is_part:
            return render(request, "_parts/problem.html", {"error": error}, status=error.status)
        return _page(request, known, error=error)
    url = reverse("chat:detail", args=[conversation.pk])
    if is_part and known is not None:
        conversation.refresh_from_db()
        turns = turn_views(conversation, selectors.turns_of(conversation, number=turn))
        return render(request, "chat/_turn.html", {"conversation": conversation, "turn": turns[0]})
    if is_part:
        return HttpResponse(status=201, headers={"Location": url})
    return redirect(url)


@policy("viewer")
@require_POST
def start(request: HttpRequest) -> HttpResponse:
    """The first question of a new conversation."""
    return _asked(request, None)


@policy("viewer")
@require_POST
def ask(request: HttpRequest, pk: int) -> HttpResponse:
    return _asked(request, selectors.conversation_of(team=request.team, user=request.user, pk=pk))


@policy("viewer")
@require_POST
def rename(request: HttpRequest, pk: int) -> HttpResponse:
    conversation = selectors.conversation_of(team=request.team, user=request.user, pk=pk)
    services.conversation_rename(conversation=conversation, title=request.POST.get("title", ""))
    return redirect("chat:detail", pk=pk)


@policy("viewer")
@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    conversation = selectors.conversation_of(team=request.team, user=request.user, pk=pk)
    title = conversation.title
    services.conversation_delete(conversation=conversation)
    messages.success(request, f"“{title}” was deleted.")
    return redirect("chat:index")


@policy("viewer")
@require_GET
def engine(request: HttpRequest) -> HttpResponse:
    """What the box says about the engine: nothing while one runs."""
    problem = ""
    try:
        engines = stream.engines()
        if not any(e.get("state", "ready") == "ready" for e in engines):
            problem = "starting" if any(e.get("state") != stream.DRAINED for e in engines) else "engine"
    except ColdframeError:
        problem = "redis"
    return render(request, "chat/_engine.html", {"problem": problem})


urlpatterns = [
    path("", index, name="index"),
    path("ask", start, name="start"),
    path("engine", engine, name="engine"),
    path("api/", chat_api.page, name="api"),
    path("corrections.jsonl", chat_answers.corrections, name="corrections"),
    path("<int:pk>/", detail, name="detail"),
    path("<int:pk>/ask", ask, name="ask"),
    path("<int:pk>/rename", rename, name="rename"),
    path("<int:pk>/delete", delete, name="delete"),
    path("<int:pk>/turns/<int:turn>/events", chat_stream.events, name="events"),
    path("<int:pk>/answers/<int:answer>/", chat_answers.show, name="answer"),
    path("<int:pk>/answers/<int:answer>/stop", chat_answers.stop, name="stop"),
    path("<int:pk>/answers/<int:answer>/regenerate", chat_answers.regenerate, name="regenerate"),
    path("<int:pk>/answers/<int:answer>/feedback", chat_answers.feedback, name="feedback"),
]
