"""The demo team: what a newcomer finds on a first start. Everything here was written for Coldframe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction

from ml.errors import ColdframeError
from webapp.context import DEMO_PASSWORD, DEMO_USER
from webapp.models import Collection, Dataset, DatasetVersion, Membership, Prompt, Role, Team
from webapp.services.collections import collection_create, documents_add
from webapp.services.datasets import version_from_rows
from webapp.services.models import models_sync
from webapp.services.prompts import prompt_create
from webapp.services.runs import training_submit

DEMO_DIR = Path(__file__).resolve().parent.parent / "demo"
LABELS = "outage, billing, moving, internet, meter, cancellation"
PROMPTS = (
    {
        "name": "support-answer",
        "description": "Answers a customer of an energy and internet provider in plain words.",
        "technique": "zero_shot",
        "system": "You work at the support desk of a small electricity and internet provider. "
        "Answer in two or three short sentences. Say first what the customer should do now.",
        "template": "{question}",
        "examples": [],
    },
    {
        "name": "support-triage",
        "description": "Names the queue of a customer's message, after three examples.",
        "technique": "few_shot",
        "system": f"Name the queue of the customer's message. Answer with one of: {LABELS}.",
        "template": "Message: {question}\nQueue:",
        "examples": [
            {"question": "The whole street is dark since six.", "answer": "outage"},
            {"question": "You charged me twice in May.", "answer": "billing"},
            {"question": "Our router blinks red and no page loads.", "answer": "internet"},
        ],
    },
    {
        "name": "rule-first",
        "description": "Thinks about a legal question in steps and ends with the rule.",
        "technique": "chain_of_thought",
        "system": "You help paralegals. You do not give legal advice.",
        "template": "{question}\nThink step by step: the facts, the question, the rule. End with one line 'Rule: …'.",
        "examples": [],
    },
)


def _people() -> tuple[Team, Any]:
    team, _ = Team.objects.get_or_create(slug="demo", defaults={"name": "Demo team"})
    users = get_user_model()
    user = users.objects.filter(username=DEMO_USER).first()
    if user is None:
        user = users.objects.create_user(DEMO_USER, password=DEMO_PASSWORD)
    Membership.objects.get_or_create(team=team, user=user, defaults={"role": Role.ADMIN})
    return team, user


def _seed_dataset(team: Team, user: Any) -> DatasetVersion:
    lines = (DEMO_DIR / "support.jsonl").read_text(encoding="utf-8").splitlines()
    return version_from_rows(
        team=team,
        user=user,
        name="support-queue",
        rows=[json.loads(line) for line in lines if line.strip()],
        mapping={
            "task": "classification",
            "system": "",
            "prompt": f"Name the queue of this customer message. Choose one of: {LABELS}.\nMessage: {{text}}\nQueue:",
            "completion": "{label}",
        },
    )


def _train(team: Team, user: Any, version: DatasetVersion) -> str:
    """Runs of one or two minutes each, which wait until the starter model is there; no other model is trained unasked.

    Says what will be, or why nothing: a demo never keeps the rest from starting.
    """
    given = json.loads((DEMO_DIR / "trainings.json").read_text(encoding="utf-8"))
    if given["base"] not in settings.BASE_MODELS:
        return f"No demo adapters are trained: {given['base']} is not one of BASE_MODELS."
    try:
        with transaction.atomic():
            for adapter, method in given["adapters"].items():
                spec = {"base": given["base"], "method": method, **given["settings"]}
                training_submit(team=team, user=user, adapter=adapter, dataset_version_id=version.pk, given=spec)
    except ColdframeError as error:
        return f"No demo adapters are trained: {error.message}"
    return f"Demo adapters {' and '.join(given['adapters'])} will be trained."


def _seed_collection(team: Team, user: Any) -> None:
    collection = collection_create(
        team=team, user=user, name="court-opinions", description="A dozen invented court-opinion summaries."
    )
    files = [(path.name, path.read_bytes()) for path in sorted((DEMO_DIR / "opinions").glob("*.md"))]
    documents_add(collection=collection, user=user, files=files)


def demo_seed() -> Iterator[str]:
    """Makes what is missing and yields a line for each thing made."""
    models_sync()
    team, user = _people()
    is_new = not Dataset.objects.for_team(team).exists()
    if is_new:
        version = _seed_dataset(team, user)
        yield "Demo dataset support-queue was read."
    if not Collection.objects.for_team(team).exists():
        _seed_collection(team, user)
        yield "Demo collection court-opinions is being embedded."
    if not Prompt.objects.for_team(team).exists():
        for prompt in PROMPTS:
            prompt_create(team=team, user=user, **prompt)
        yield f"{len(PROMPTS)} demo prompts were made."
    if is_new and settings.DEMO_TRAINS:
        yield _train(team, user, version)  # last: the collection is embedded in seconds and does not wait for this
