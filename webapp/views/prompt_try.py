"""The editor's looks at a prompt that is not saved: what it sends, examples to start from, its answers on three rows.

Nothing is written. The rows are queued as one group, so that they share steps; the page holds a signed ticket for their
streams, good for an hour and for the team that asked; leaving the page stops the rows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from django.core import signing
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from jobs import stream
from ml.errors import ColdframeError, NotFoundError, SpecError
from ml.specs.voting import same
from webapp.forms.prompts import PromptForm
from webapp.live import Guard, event_stream
from webapp.policy import policy
from webapp.selectors import prompt_trial as selectors
from webapp.selectors.examples import one_a_label, random_examples
from webapp.selectors.prompts import draft_of, prompt_of, version_of
from webapp.services.prompt_content import MAX_SEED, MOST_EXAMPLES, content_check, content_resolve

SAMPLE = "My lights went out. What should I do?"
SALT = "prompts.try"
TICKET_S = 3600
BEAT_S = 2.0


def _number(text: Any, fallback: int, high: int) -> int:
    given = str(text or "")
    return min(int(given), high) if given.isascii() and given.isdigit() and len(given) < 12 else fallback


def _form(request: HttpRequest) -> PromptForm:
    return PromptForm(request.POST, is_new=False, team=request.team)


@policy("member")
@require_POST
def preview(request: HttpRequest) -> HttpResponse:
    """What the typed content would send for the typed question; asked for by htmx while typing."""
    question = request.POST.get("sample", "").strip()[:2000] or SAMPLE
    form = _form(request)
    context: dict[str, Any] = {"form": form}
    if form.is_valid():
        try:
            context |= selectors.preview_of(form.content, question, team_id=request.team.pk)
        except ColdframeError as error:
            form.refuse(error)
    return render(request, "prompts/_sent.html", context)


@policy("member")
@require_POST
def draw(request: HttpRequest) -> HttpResponse:
    """Training rows as fixed examples to start from: one a label, or k at random. Not saved."""
    form = _form(request)
    data, seed = form.dataset_version, _number(request.POST.get("order_seed"), 17, MAX_SEED)
    try:
        if data is None:
            raise SpecError("Examples are drawn from a data set, got none.", hint="Choose the data set first.")
        if request.POST.get("how") == "label":
            found = one_a_label(data, seed=seed)[:MOST_EXAMPLES]
        else:
            found = random_examples(data, k=max(1, _number(request.POST.get("k"), 4, MOST_EXAMPLES)), seed=seed)
    except ColdframeError as error:
        return render(request, "prompts/_examples.html", {"form": form, "error": error})
    form.pairs = [{"question": e.question, "steps": "", "answer": e.answer} for e in found]
    return render(request, "prompts/_examples.html", {"form": form})


def _drafts(request: HttpRequest, form: PromptForm) -> list[tuple[str, Any]]:
    """(name, version): the draft, and the newest saved version that it would follow."""
    if not form.is_valid():
        problem = next(iter(form.errors.values()))[0]
        raise SpecError(str(problem))
    content = content_resolve(content_check(**form.content))
    found = [("draft", draft_of(content, None))]
    pk = _number(request.POST.get("prompt"), 0, 10**9)
    if pk:
        saved = version_of(prompt=prompt_of(team=request.team, pk=pk))
        found.append((f"@{saved.number}", saved))
    return found


@policy("member")
@require_POST
def start(request: HttpRequest) -> HttpResponse:
    """Queues the draft's and the saved version's answers to three rows; the page then listens to their streams."""
    form = _form(request)
    question = request.POST.get("sample", "").strip()[:2000] or SAMPLE
    try:
        trial = selectors.trial_of(
            _drafts(request, form), data=form.dataset_version, question=question, team_id=request.team.pk,
            seed=_number(request.POST.get("rows_seed"), 0, MAX_SEED),
        )  # fmt: skip
        beats = stream.engines()
        if asleep := [request.base for request in trial.requests if not stream.serving(request.base, beats)]:
            raise NotFoundError(f"No engine of {asleep[0]} is running.",
                                hint="Look on the Models page, then try again.")  # fmt: skip
        stream.submit(trial.requests)
    except ColdframeError as error:
        return render(request, "prompts/_try.html", {"error": error})
    ids, wanted = [r.id for r in trial.requests], trial.wanted
    ticket = signing.dumps({"team": request.team.pk, "ids": ids, "wanted": wanted}, salt=SALT, compress=True)
    context = {"trial": trial, "events": reverse("prompts:try_events", args=[ticket])}
    return render(request, "prompts/_try.html", context)


@policy("member")
@require_GET
async def events(request: HttpRequest, ticket: str) -> HttpResponse | StreamingHttpResponse:
    """The trial's answers on one connection: token, chain, done {answer, votes, is_right}, failed; by place `i`."""
    try:
        given = signing.loads(ticket, salt=SALT, max_age=TICKET_S)
    except signing.BadSignature:
        given = {}
    if given.get("team") != request.team.pk:
        raise NotFoundError("There is no such trial.", hint="Start it again.")
    return event_stream(Answers(Guard(request, level="member"), given["ids"], given["wanted"]))


def _shown(place: int, event: dict[str, Any], text: str, wanted: str) -> tuple[str, dict[str, Any]] | None:
    """The page's event for the engine's, or None for what it does not show."""
    if event["event"] == "token":
        return "token", {"i": place, "text": event.get("text", "")}
    if event["event"] == "chain":
        return "chain", {"i": place, "done": event["done"], "of": event["of"]}
    if event["event"] == "error":
        return "failed", {"i": place, "message": event["error"].get("message", "It failed.")}
    if event["event"] != "done":
        return None
    answer = event.get("answer", text.strip())
    figures = {key: event[key] for key in ("agreement", "votes", "first_step", "last_step") if key in event}
    judged = {"is_right": answer is not None and same(answer) == same(wanted)} if wanted else {}
    return "done", {"i": place, "answer": answer, "usage": event.get("usage", {}), **figures, **judged}


async def _pump(place: int, request_id: str, wanted: str, queue: asyncio.Queue[tuple[str, dict[str, Any]]]) -> None:
    text = ""
    try:
        async for _, event in stream.events(request_id, block_s=BEAT_S):
            text += event.get("text", "") if event["event"] == "token" else ""
            if (shown := _shown(place, event, text, wanted)) is not None:
                await queue.put(shown)
    except ColdframeError as error:
        await queue.put(("failed", {"i": place, "message": error.message}))


class Answers:
    """The body of a trial's stream. Django calls `close` when the reader has left: what is still written is stopped."""

    def __init__(self, guard: Guard, ids: list[str], wanted: list[str]) -> None:
        self._guard, self._ids, self._wanted = guard, ids, wanted
        self._open = set(range(len(ids)))

    def close(self) -> None:
        for place in self._open:
            stream.cancel(self._ids[place])
        self._open = set()

    async def __aiter__(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(maxsize=500)
        pairs = enumerate(zip(self._ids, self._wanted, strict=True))
        tasks = [asyncio.create_task(_pump(place, *pair, queue)) for place, pair in pairs]
        try:
            while self._open and await self._guard.holds():
                try:
                    name, data = await asyncio.wait_for(queue.get(), BEAT_S)
                except TimeoutError:
                    yield ": beat\n\n"
                    continue
                if name in ("done", "failed"):
                    self._open.discard(data["i"])
                yield f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
            yield "event: over\ndata: {}\n\n"
        finally:
            for task in tasks:
                task.cancel()
