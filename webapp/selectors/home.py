"""What Home shows: the first steps with what was done, running work, latest adapters, the engine; and the search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
from django.conf import settings
from django.db.models import Model, QuerySet
from django.urls import reverse

from jobs import stream
from webapp.models import (
    Adapter,
    AdapterVersion,
    Collection,
    Conversation,
    Dataset,
    DatasetVersion,
    Document,
    Message,
    Prompt,
    Run,
    Study,
    Team,
)  # fmt: skip
from webapp.selectors.engines import engines
from webapp.selectors.metrics import measure

BED_X = (12, 27, 42, 57, 72, 87, 102, 117, 132, 147, 162)


@dataclass(frozen=True)
class Step:
    """One line of the first-run list."""

    title: str
    text: str
    url: str
    action: str
    done: Any = None
    """The object that shows it is done, or None."""
    done_url: str = ""
    is_now: bool = False


def bed() -> dict[str, Any]:
    """The frozen model at the foot of the navigation: plants are resident tasks, grown ones are in the batch now."""
    beats = engines()
    alive = stream.serving(settings.BASE_MODEL, beats) or stream.serving("", beats)
    if not alive:
        return {"model": settings.BASE_MODEL, "text": "the engine is not running", "plants": _plants(0)}
    engine = alive[0]
    n_resident, n_rows = len(engine.get("resident", [])), len(engine.get("rows", []))
    text = f"frozen · {n_resident} task{'' if n_resident == 1 else 's'} resident, {n_rows} in this step"
    return {"model": engine.get("base") or settings.BASE_MODEL, "text": text, "plants": _plants(n_resident)}


def _plants(n_grown: int) -> list[dict[str, Any]]:
    grown = set(sorted(range(len(BED_X)), key=lambda i: (i * 7) % len(BED_X))[:n_grown])
    return [{"x": x, "is_grown": i in grown} for i, x in enumerate(BED_X)]


def first_steps(*, team: Team, user: Any) -> list[Step]:
    """Data, train, compare, chat; the first one that is not done is `is_now`."""
    data = DatasetVersion.objects.for_team(team).select_related("dataset").order_by("-created_at").first()
    adapters = AdapterVersion.objects.for_team(team).select_related("adapter").order_by("-created_at")
    two = list(adapters[:2])
    study = Study.objects.for_team(team).exclude(results="").order_by("-created_at").first()
    compared = study or (two[1] if len(two) == 2 else None)
    answers = Message.objects.for_team(team).filter(role=Message.Role.ASSISTANT, state=Message.State.DONE)
    answer = answers.exclude(target="base").filter(created_by=user).order_by("-created_at").first()
    steps = [
        ("Bring data", "A file of examples: a question or text, and the answer or label you want.",
         reverse("datasets:new"), "Add data", data, data and reverse("datasets:detail", args=[data.dataset_id])),
        ("Train an adapter", "Choose a technique; the frozen model learns your task in some kilobytes.",
         reverse("runs:new"), "New run", two[0] if two else None,
         two and reverse("adapters:detail", args=[two[0].adapter_id])),
        ("Compare techniques", "A study measures many on the same rows and says which differences are real.",
         reverse("studies:new"), "New study", compared,
         reverse("studies:detail", args=[study.pk]) if study else reverse("studies:boards")),
        ("Chat with the winner", "Ask several adapters at once, with your documents as evidence.",
         reverse("chat:index"), "Open chat", answer,
         answer and reverse("chat:detail", args=[answer.conversation_id])),
    ]  # fmt: skip
    first_open = next((i for i, step in enumerate(steps) if step[4] is None), None)
    return [
        Step(title, text, url, action, done, done_url or "", i == first_open)
        for i, (title, text, url, action, done, done_url) in enumerate(steps)
    ]


def machine() -> dict[str, Any]:
    """Load of the machine the web process runs on."""
    memory = psutil.virtual_memory()
    return {
        "cpu_percent": psutil.cpu_percent(interval=None),
        "n_cores": psutil.cpu_count(),
        "used_bytes": memory.total - memory.available,
        "total_bytes": memory.total,
        "used_percent": memory.percent,
    }


def overview(*, team: Team, user: Any) -> dict[str, Any]:
    """Everything on Home but the parts that refresh themselves."""
    steps = first_steps(team=team, user=user)
    runs = Run.objects.for_team(team)
    latest = AdapterVersion.objects.for_team(team).filter(adapter__is_retired=False).order_by("-created_at")
    latest = latest.select_related("adapter", "dataset_version__dataset").prefetch_related("aliases")
    return {
        "steps": steps,
        "n_done": sum(step.done is not None for step in steps),
        "runs": list(runs.exclude(state__in=Run.TERMINAL).order_by("created_at")[:8]),
        "recent": list(runs.filter(state__in=Run.TERMINAL).order_by("-finished_at")[:5]),
        "adapters": [{"version": version, "test": measure(version.metrics)} for version in latest[:5]],
        "collection": Collection.objects.for_team(team).order_by("pk").first(),
        **load(),
    }


def load() -> dict[str, Any]:
    """Engines and machine, for the pane that refreshes itself."""
    return {"engines": engines(), "machine": machine()}


def _found(rows: QuerySet[Any], column: str, query: str) -> list[Model]:
    return list(rows.filter(**{f"{column}__icontains": query})[:8])


def search(*, team: Team, user: Any, query: str) -> list[dict[str, Any]]:
    """Matches by name in this team's things and the asker's own conversations, grouped by noun."""
    places = [
        ("Adapters", "adapters:detail", _found(Adapter.objects.for_team(team), "name", query)),
        ("Prompts", "prompts:detail", _found(Prompt.objects.for_team(team), "name", query)),
        ("Datasets", "datasets:detail", _found(Dataset.objects.for_team(team), "name", query)),
        ("Collections", "collections:detail", _found(Collection.objects.for_team(team), "name", query)),
        ("Studies", "studies:detail", _found(Study.objects.for_team(team), "name", query)),
        ("Runs", "runs:detail", _found(Run.objects.for_team(team), "title", query)),
        ("Conversations", "chat:detail",
         _found(Conversation.objects.for_team(team).filter(created_by=user), "title", query)),
    ]  # fmt: skip
    groups = [
        {"label": label, "rows": [{"text": str(row), "url": reverse(view, args=[row.pk])} for row in rows]}
        for label, view, rows in places
    ]
    documents = Document.objects.for_team(team).filter(is_deleted=False, title__icontains=query)[:8]
    items = [{"text": d.title, "url": reverse("collections:document", args=[d.collection_id, d.pk])} for d in documents]
    groups.append({"label": "Documents", "rows": items})
    return [group for group in groups if group["rows"]]
