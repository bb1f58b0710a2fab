"""Writes on the prompt library: prompts, their versions, and the aliases that point at them.

A version never changes once made; an edit makes the next one, and says which one it began from, so that nobody
overwrites what another has saved meanwhile. `production` moves freely only to a version that is measurably better on
the same rows, as with adapters; else a reason is asked for and kept in the audit trail. Contents: prompt_content.py.
"""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from ml.errors import ColdframeError, SpecError
from webapp.models import Adapter, Prompt, PromptAlias, PromptVersion, Team
from webapp.names import name_check
from webapp.selectors.adapters import alias_verdict
from webapp.services.prompt_content import content_check, content_resolve, text_check
from webapp.services.teams import audit

PRODUCTION = "production"


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    return content_resolve(content_check(**content))


def prompt_create(*, team: Team, user: Any, name: str, description: str = "", **content: Any) -> PromptVersion:
    """A new prompt with its first version. Raises SpecError or DataError with `field` set."""
    name = name_check(name)
    description = text_check(description, "A description", "description", longest=300)
    checked = _checked(content)
    if Adapter.objects.for_team(team).filter(name=name).exists():
        raise SpecError(f"There is an adapter {name!r}: clients that ask for {name} would get that.", field="name",
                        hint="Choose another name.")  # fmt: skip
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


@transaction.atomic
def alias_move(*, version: PromptVersion, name: str, user: Any, reason: str = "") -> PromptAlias:
    """Points `name` at `version`. Raises ColdframeError when `production` is held back and no reason is given."""
    name, reason = name_check(name, field="alias", longest=40), reason.strip()
    alias = PromptAlias.objects.select_related("version", "prompt").filter(prompt=version.prompt, name=name).first()
    incumbent = alias.version if alias else None
    if alias is not None and incumbent is not None and incumbent.pk == version.pk:
        return alias
    verdict = alias_verdict(version=version, incumbent=incumbent)
    if name == PRODUCTION and verdict.is_held_back and not reason:
        raise ColdframeError(
            f"{name} is held back: {verdict.text}", hint="Give a reason to move it all the same.",
            code="held_back", field="reason", status=409,
        )  # fmt: skip
    if len(reason) > 500:
        raise ColdframeError(f"A reason has at most 500 characters, got {len(reason)}.", field="reason")
    alias = _point(alias, version=version, name=name, user=user)
    audit(
        team=version.team, user=user, action="prompt.alias", subject=f"{version.prompt}@{name}", to=version.number,
        **({"from": incumbent.number} if incumbent else {}), reason=reason, held_back=verdict.is_held_back,
    )  # fmt: skip
    return alias


def _point(alias: PromptAlias | None, *, version: PromptVersion, name: str, user: Any) -> PromptAlias:
    if alias is None:
        try:
            with transaction.atomic():
                return PromptAlias.objects.create(
                    team=version.team, created_by=user, prompt=version.prompt, name=name, version=version
                )
        except IntegrityError:
            raise _moved_meanwhile(name) from None
    moved = PromptAlias.objects.filter(pk=alias.pk, version=alias.version)
    if moved.update(version=version, moved_at=timezone.now()) != 1:
        raise _moved_meanwhile(name)
    alias.refresh_from_db()
    return alias


def _moved_meanwhile(name: str) -> ColdframeError:
    return ColdframeError(f"{name} was moved by someone else meanwhile.", hint="Look again, then decide.",
                          code="conflict", status=409)  # fmt: skip
