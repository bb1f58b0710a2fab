"""Writes on the prompt library. A version never changes once made; an edit makes the next one.

A template holds `{question}` and no other placeholder; any other brace is text. Zero-shot has no examples, few-shot has
at least one; chain of thought may have some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.db.models import Max

from ml.errors import SpecError
from webapp.models import Prompt, PromptVersion, Team
from webapp.names import name_check
from webapp.services.teams import audit

PLACEHOLDERS = ("question",)
LONGEST = 8_000
MOST_EXAMPLES = 32
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_KNOWN = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)


def _text(value: Any, what: str, field: str, *, longest: int = LONGEST) -> str:
    text = str(value or "").replace("\r\n", "\n").strip()
    if len(text) > longest:
        raise SpecError(f"{what} has at most {longest:,} characters, got {len(text):,}.", field=field)
    return text


def template_check(template: Any) -> str:
    """The template, stripped. Raises SpecError naming what is missing or unknown in it."""
    text = _text(template, "A template", "template")
    unknown = sorted({name for name in _PLACEHOLDER.findall(text) if name not in PLACEHOLDERS})
    if unknown:
        names = ", ".join(f"{{{name}}}" for name in unknown)
        raise SpecError(f"Unknown placeholder{'s' if len(unknown) > 1 else ''} {names}.", field="template",
                        hint=f"Known here: {_KNOWN}. Anything else in braces must not look like a name.")  # fmt: skip
    if "{question}" not in text:
        raise SpecError("The template does not say where the question goes.", field="template",
                        hint="Put {question} where the typed text shall stand.")  # fmt: skip
    return text


def examples_check(examples: Sequence[Mapping[str, Any]], technique: str) -> list[dict[str, str]]:
    """The pairs, stripped, without the wholly empty ones. Raises SpecError naming the pair."""
    pairs = []
    for number, pair in enumerate(examples, start=1):
        question = _text(pair.get("question"), f"Example {number}", "examples")
        answer = _text(pair.get("answer"), f"Example {number}", "examples")
        if bool(question) != bool(answer):
            missing = "answer" if question else "question"
            raise SpecError(f"Example {number} has no {missing}.", hint="Fill it in, or clear both.", field="examples")
        if question:
            pairs.append({"question": question, "answer": answer})
    if len(pairs) > MOST_EXAMPLES:
        raise SpecError(f"A prompt has at most {MOST_EXAMPLES} examples, got {len(pairs)}.", field="examples")
    if technique == PromptVersion.Technique.FEW_SHOT and not pairs:
        raise SpecError("Few-shot needs at least one example, got none.", field="examples",
                        hint="Add a question with the answer you want.")  # fmt: skip
    if technique == PromptVersion.Technique.ZERO_SHOT and pairs:
        raise SpecError(f"Zero-shot has no examples, got {len(pairs)}.", field="examples",
                        hint="Choose few-shot, or clear them.")  # fmt: skip
    return pairs


def content_check(
    *, technique: str, template: Any, system: Any = "", examples: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """A version's content, checked. Raises SpecError with `field` set."""
    if technique not in PromptVersion.Technique.values:
        known = ", ".join(PromptVersion.Technique.values)
        raise SpecError(f"Unknown technique {technique!r}.", hint=f"Techniques: {known}.", field="technique")
    return {
        "technique": technique,
        "system": _text(system, "The system text", "system"),
        "template": template_check(template),
        "examples": examples_check(examples, technique),
    }


@transaction.atomic
def prompt_create(*, team: Team, user: Any, name: str, description: str = "", **content: Any) -> PromptVersion:
    """A new prompt with its first version. Raises SpecError with `field` set."""
    name = name_check(name)
    description = _text(description, "A description", "description", longest=300)
    checked = content_check(**content)
    if Prompt.objects.for_team(team).filter(name=name).exists():
        raise SpecError(f"There is a prompt {name!r} already.", field="name",
                        hint="Open it and save a new version, or choose another name.")  # fmt: skip
    prompt = Prompt.objects.create(team=team, created_by=user, name=name, description=description)
    version = PromptVersion.objects.create(team=team, created_by=user, prompt=prompt, number=1, **checked)
    audit(team=team, user=user, action="prompt.create", subject=version)
    return version


@transaction.atomic
def version_create(*, prompt: Prompt, user: Any, **content: Any) -> PromptVersion:
    """The next version; the newest one itself when nothing is different."""
    checked = content_check(**content)
    Prompt.objects.select_for_update().get(pk=prompt.pk)
    newest = prompt.versions.order_by("-number").first()
    if newest is not None and all(getattr(newest, key) == value for key, value in checked.items()):
        return newest
    number = (prompt.versions.aggregate(last=Max("number"))["last"] or 0) + 1
    version = PromptVersion.objects.create(team=prompt.team, created_by=user, prompt=prompt, number=number, **checked)
    audit(team=prompt.team, user=user, action="prompt.version", subject=version)
    return version
