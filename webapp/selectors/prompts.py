"""Reads of the prompt library: the list, a version, what it sends, and how two versions differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from django.db.models import Count, OuterRef, QuerySet, Subquery

from ml.errors import ColdframeError, NotFoundError
from ml.specs.voting import KINDS
from webapp.models import Adapter, DatasetVersion, Prompt, PromptAlias, PromptVersion, Team
from webapp.selectors.examples import fields_of, rows
from webapp.selectors.framing import frame_of_prompt
from webapp.selectors.metrics import Measure, measure

GLYPHS = {"zero_shot": "t-zero", "few_shot": "t-few", "chain_of_thought": "t-cot"}
SAMPLE = "My lights went out. What should I do?"
STEP_BY_STEP = "Think step by step. Then write the answer on a last line that begins with Answer:"
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
              summary="Steps first, then the answer; several texts may vote."),
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
        pick=Subquery(newest.values("pick")[:1]),
        k=Subquery(newest.values("k")[:1]),
        changed=Subquery(newest.values("created_at")[:1]),
        changed_by=Subquery(newest.values("created_by__username")[:1]),
    )


def prompt_of(*, team: Team, pk: int) -> Prompt:
    """The team's prompt. Raises NotFoundError."""
    prompt = Prompt.objects.for_team(team).filter(pk=pk).first()
    if prompt is None:
        raise NotFoundError("There is no such prompt in this team.", hint="Look in the prompt library.")
    return prompt


def _versions(prompt: Prompt) -> QuerySet[PromptVersion]:
    return prompt.versions.select_related("prompt", "created_by", "dataset_version__dataset", "collection")


def version_of(*, prompt: Prompt, number: int | None = None) -> PromptVersion:
    """A version by number, the newest without one. Raises NotFoundError."""
    found = _versions(prompt)
    version = found.filter(number=number).first() if number is not None else found.order_by("-number").first()
    if version is None:
        raise NotFoundError(f"{prompt.name} has no version {number}.", hint="Look at its list of versions.")
    return version


def versions_of(prompt: Prompt) -> list[PromptVersion]:
    return list(_versions(prompt).order_by("-number"))


def default_version(prompt: Prompt) -> PromptVersion:
    """What the page of a prompt opens at: production, else the newest. Raises NotFoundError."""
    production = _versions(prompt).filter(aliases__name="production").first()
    return production or version_of(prompt=prompt)


def aliases_of(prompt: Prompt) -> dict[int, list[PromptAlias]]:
    """By version."""
    found: dict[int, list[PromptAlias]] = {}
    for alias in prompt.aliases.select_related("version", "prompt"):
        found.setdefault(alias.version_id, []).append(alias)
    return found


def with_aliases(prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Each prompt of a page with its aliases, in one query."""
    found: dict[int, list[PromptAlias]] = {}
    for alias in PromptAlias.objects.select_related("version").filter(prompt__in=prompts):
        found.setdefault(alias.prompt_id, []).append(alias)
    return [{"prompt": prompt, "aliases": found.get(prompt.pk, [])} for prompt in prompts]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table of versions."""

    version: PromptVersion
    aliases: list[PromptAlias]
    test: Measure | None


def version_rows(versions: Iterable[PromptVersion], aliases: Mapping[int, list[PromptAlias]]) -> list[Row]:
    return [Row(version=v, aliases=aliases.get(v.pk, []), test=measure(v.metrics)) for v in versions]


def call_name(version: PromptVersion) -> str:
    """How clients name this version: by `production` when it holds it; with `prompt:` where an adapter has the name."""
    which = "production" if version.aliases.filter(name="production").exists() else version.number
    is_taken = Adapter.objects.filter(team=version.team_id, name=version.prompt.name).exists()
    return f"{'prompt:' if is_taken else ''}{version.prompt.name}@{which}"


def draft_of(content: Mapping[str, Any], prompt: Prompt | None) -> PromptVersion:
    """A version that is not saved, of checked content."""
    return PromptVersion(**content, prompt=prompt or Prompt(name="draft"), number=0)


def known_placeholders(datasets: Iterable[DatasetVersion]) -> dict[str, list[str]]:
    """By data set version: what a template for it may ask for."""
    return {str(v.pk): [*fields_of(v), *(["labels"] if v.labels else [])] for v in datasets}


def sample_for(version: PromptVersion) -> str:
    """A question to show the prompt with: a validation row's where there is one."""
    if version.dataset_version is not None:
        try:
            for split in ("validation", "train"):
                for example in islice(rows(version.dataset_version, split), 1):
                    return example.question
        except (ColdframeError, OSError):
            return SAMPLE
    if len(version.fields) > 1:
        return "{" + ", ".join(f'"{name}": "…"' for name in version.fields) + "}"
    return SAMPLE


def technique_named(name: str) -> Technique:
    return next((t for t in TECHNIQUES if t.name == name), TECHNIQUES[0])


def messages_for(version: PromptVersion, question: str) -> list[dict[str, str]]:
    """What chat and API send for `question`, by the same code; without the examples that are chosen for it."""
    try:
        return frame_of_prompt(version).fold([{"role": "user", "content": question}])
    except ColdframeError:
        return []


def facts_of(version: PromptVersion) -> list[tuple[str, str]]:
    """Everything but the texts, in words."""
    found = [("Technique", version.get_technique_display())]
    if version.base_name:
        found.append(("Base model", version.base_name))
    if version.dataset_version is not None:
        found.append(("For the data set", str(version.dataset_version)))
    if version.fields != ["question"]:
        found.append(("Fields", ", ".join(version.fields)))
    if version.pick == PromptVersion.Pick.RANDOM:
        found.append(("Examples", f"{version.k} training rows, drawn with order seed {version.order_seed}"))
    elif version.pick == PromptVersion.Pick.NEAREST:
        found.append(("Examples", f"the {version.k} training rows nearest to each question, nearest last"))
    elif version.examples:
        found.append(("Examples", f"{len(version.examples)}, fixed"))
    if kind := version.rule.get("kind", ""):
        marker = f" {version.rule['marker']}" if "marker" in version.rule else ""
        found.append(("The answer is", KINDS[kind].lower() + marker))
    if version.n_samples > 1:
        found.append(("Votes", f"{version.n_samples} texts at temperature {version.sample_temperature:g}"))
    if version.collection_name:
        gone = "" if version.collection_id else ", which was deleted"
        found.append(("Answers from", version.collection_name + gone))
    return found


def as_text(version: PromptVersion) -> str:
    """Everything a version is, as lines to compare."""
    lines = [f"{name.lower()}: {value}" for name, value in facts_of(version)]
    if version.system:
        lines += ["", "system:", *version.system.splitlines()]
    lines += ["", "template:", *version.template.splitlines()]
    for number, pair in enumerate(version.examples, start=1):
        steps = ["steps:", *pair["steps"].splitlines()] if pair.get("steps") else []
        lines += ["", f"example {number}, question:", *pair["question"].splitlines(), *steps, "answer:",
                  *pair["answer"].splitlines()]  # fmt: skip
    return "\n".join(lines)


def picked(versions: list[PromptVersion], number: Any, fallback: int) -> PromptVersion:
    """The version whose number was asked for in an address, else the one at place `fallback`."""
    by_number = {str(row.number): row for row in versions}
    return by_number.get(str(number), versions[min(fallback, len(versions) - 1)])
