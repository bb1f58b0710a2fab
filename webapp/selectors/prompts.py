"""Reads of the prompt library: the list, a version, what it sends, and how two versions differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, OuterRef, QuerySet, Subquery

from ml.errors import NotFoundError
from webapp.models import Prompt, PromptVersion, Team
from webapp.selectors.framing import frame_of_prompt

GLYPHS = {"zero_shot": "t-zero", "few_shot": "t-few", "chain_of_thought": "t-cot"}
STEP_BY_STEP = "Think step by step. Then write the answer alone on a last line."
"""What the editor offers to add to a template (Kojima et al. 2022, arXiv 2205.11916); nothing is added unseen."""


@dataclass(frozen=True, kw_only=True)
class Technique:
    """A way of prompting, for the choice in the form."""

    name: str
    label: str
    glyph: str
    summary: str


TECHNIQUES = (
    Technique(name="zero_shot", label="Zero-shot", glyph="t-zero", summary="The instruction alone."),
    Technique(name="few_shot", label="Few-shot", glyph="t-few", summary="Question and answer pairs come first."),
    Technique(name="chain_of_thought", label="Chain of thought", glyph="t-cot",
              summary="The model writes its steps, then the answer."),
)  # fmt: skip


def prompt_list(*, team: Team) -> QuerySet[Prompt]:
    """Prompts of the team with their newest version's number, technique and date."""
    newest = PromptVersion.objects.filter(prompt=OuterRef("pk")).order_by("-number")
    return Prompt.objects.for_team(team).annotate(
        n_versions=Count("versions"),
        number=Subquery(newest.values("number")[:1]),
        technique=Subquery(newest.values("technique")[:1]),
        template=Subquery(newest.values("template")[:1]),
        examples=Subquery(newest.values("examples")[:1]),
        changed=Subquery(newest.values("created_at")[:1]),
        changed_by=Subquery(newest.values("created_by__username")[:1]),
    )


def prompt_of(*, team: Team, pk: int) -> Prompt:
    """The team's prompt. Raises NotFoundError."""
    prompt = Prompt.objects.for_team(team).filter(pk=pk).first()
    if prompt is None:
        raise NotFoundError("There is no such prompt in this team.", hint="Look in the prompt library.")
    return prompt


def version_of(*, prompt: Prompt, number: int | None = None) -> PromptVersion:
    """A version by number, the newest without one. Raises NotFoundError."""
    rows = prompt.versions.select_related("prompt", "created_by")
    version = rows.filter(number=number).first() if number is not None else rows.order_by("-number").first()
    if version is None:
        raise NotFoundError(f"{prompt.name} has no version {number}.", hint="Look at its list of versions.")
    return version


def technique_named(name: str) -> Technique:
    return next((t for t in TECHNIQUES if t.name == name), TECHNIQUES[0])


def messages_for(version: PromptVersion, question: str) -> list[dict[str, str]]:
    """What chat and API send for `question`, by the same code."""
    return frame_of_prompt(version).fold([{"role": "user", "content": question}])


def as_text(version: PromptVersion) -> str:
    """Everything a version is, as lines to compare."""
    lines = [f"technique: {version.get_technique_display()}"]
    if version.system:
        lines += ["", "system:", *version.system.splitlines()]
    lines += ["", "template:", *version.template.splitlines()]
    for number, pair in enumerate(version.examples, start=1):
        lines += ["", f"example {number}, question:", *pair["question"].splitlines(), "answer:",
                  *pair["answer"].splitlines()]  # fmt: skip
    return "\n".join(lines)


def picked(rows: list[PromptVersion], number: Any, fallback: int) -> PromptVersion:
    """The version whose number was asked for in an address, else the one at place `fallback`."""
    by_number = {str(row.number): row for row in rows}
    return by_number.get(str(number), rows[min(fallback, len(rows) - 1)])
