"""Writes on the prompt library: prompts, their versions, and the aliases that point at them.

A version never changes once made; an edit makes the next one, and says which one it began from, so that nobody
overwrites what another has saved meanwhile. `production` moves freely only to a version that is measurably better on
the same rows, as with adapters; else a reason is asked for and kept in the audit trail. Contents: prompt_content.py.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction

from ml.errors import ColdframeError, SpecError
from webapp.models import Prompt, PromptAlias, PromptVersion, Team
from webapp.services.aliases import PROMPTS, alias_point
from webapp.services.library_names import prompt_name_check
from webapp.services.prompt_content import content_check, content_resolve, text_check
from webapp.services.teams import audit


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    return content_resolve(content_check(**content))


def prompt_create(*, team: Team, user: Any, name: str, description: str = "", **content: Any) -> PromptVersion:
    """A new prompt with its first version. Raises SpecError or DataError with `field` set."""
    name = prompt_name_check(team, name)
    description = text_check(description, "A description", "description", longest=300)
    checked = _checked(content)
    with transaction.atomic():
        prompt, is_new = Prompt.objects.get_or_create(
            team=team, name=name, defaults={"created_by": user, "description": description}
        )
        if not is_new:
            raise SpecError(f"There is a prompt {name!r} already.", field="name",
                            hint="Open it and save a new version, or choose another name.")  # fmt: skip
        version = PromptVersion.objects.create(team=team, created_by=user, prompt=prompt, number=1, **checked)
        audit(team=team, user=user, action="prompt.create", subject=version)
    return version


def version_create(*, prompt: Prompt, user: Any, base: int | None = None, **content: Any) -> PromptVersion:
    """The next version; the newest one itself when nothing is different.

    `base` is the number of the version that the edit began from. Raises ColdframeError (`conflict`) when another was
    saved after it, SpecError or DataError for the content.
    """
    checked = _checked(content)
    with transaction.atomic():
        Prompt.objects.select_for_update().get(pk=prompt.pk)
        rows = prompt.versions.select_related("created_by", "dataset_version", "collection")
        newest = rows.order_by("-number").first()
        if newest is not None and all(getattr(newest, key) == value for key, value in checked.items()):
            return newest
        if newest is not None and base is not None and newest.number != base:
            raise _saved_meanwhile(newest, base)
        number = newest.number + 1 if newest else 1
        version = PromptVersion.objects.create(
            team=prompt.team, created_by=user, prompt=prompt, number=number, **checked
        )
        audit(team=prompt.team, user=user, action="prompt.version", subject=version)
    return version


def _saved_meanwhile(newest: PromptVersion, base: int) -> ColdframeError:
    who = newest.created_by.get_username() if newest.created_by else "Somebody"
    return ColdframeError(
        f"{who} saved @{newest.number} while you edited @{base}.", code="conflict", status=409,
        hint="Nothing of yours is lost: compare both, then save yours as the next version.",
    )  # fmt: skip


def alias_move(*, version: PromptVersion, name: str, user: Any, reason: str = "") -> PromptAlias:
    """Points `name` at `version`. Raises ColdframeError when `production` is held back and no reason is given."""
    moved: PromptAlias = alias_point(PROMPTS, version=version, name=name, user=user, reason=reason)
    return moved
