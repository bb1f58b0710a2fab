"""Moving a name such as `production` from one version to another: the same for adapters and prompts.

Guarantees: `production` is held back until the new version is better for certain, or a reason is given, which the audit
keeps; of two people who move one name at once the second is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from ml.errors import ColdframeError
from webapp.models import Alias, PromptAlias
from webapp.names import name_check
from webapp.selectors.adapters import alias_verdict
from webapp.services.teams import audit

PRODUCTION = "production"
_LONGEST_REASON = 500


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What has aliases."""

    model: type[Alias] | type[PromptAlias]
    owner: str
    """The field, of alias and version alike, that names what the versions are of."""
    action: str
    """What the audit calls a move."""


ADAPTERS = Kind(model=Alias, owner="adapter", action="alias.move")
PROMPTS = Kind(model=PromptAlias, owner="prompt", action="prompt.alias")


@transaction.atomic
def alias_point(kind: Kind, *, version: Any, name: str, user: Any, reason: str) -> Any:
    """The alias `name` at `version`. Raises ColdframeError when `production` is held back and no reason is given."""
    name, reason = name_check(name, field="alias", longest=40), reason.strip()
    owner = getattr(version, kind.owner)
    alias = kind.model.objects.select_related("version").filter(**{kind.owner: owner}, name=name).first()
    incumbent = alias.version if alias else None
    if incumbent is not None and incumbent.pk == version.pk:
        return alias
    verdict = alias_verdict(version=version, incumbent=incumbent)
    if name == PRODUCTION and verdict.is_held_back and not reason:
        raise ColdframeError(
            f"{name} is held back: {verdict.text}", hint="Give a reason to move it all the same.",
            code="held_back", field="reason", status=409,
        )  # fmt: skip
    if len(reason) > _LONGEST_REASON:
        raise ColdframeError(f"A reason has at most {_LONGEST_REASON} characters, got {len(reason)}.", field="reason")
    alias = _point(kind, alias, version=version, name=name, user=user)
    audit(
        team=version.team, user=user, action=kind.action, subject=f"{owner}@{name}", to=version.number,
        **({"from": incumbent.number} if incumbent else {}), reason=reason, held_back=verdict.is_held_back,
    )  # fmt: skip
    return alias


def _point(kind: Kind, alias: Any, *, version: Any, name: str, user: Any) -> Any:
    if alias is None:
        owner = {kind.owner: getattr(version, kind.owner)}
        try:
            with transaction.atomic():
                return kind.model.objects.create(
                    team=version.team, created_by=user, name=name, version=version, **owner
                )
        except IntegrityError:
            raise _moved_meanwhile(name) from None
    moved = kind.model.objects.filter(pk=alias.pk, version=alias.version)
    if moved.update(version=version, moved_at=timezone.now()) != 1:
        raise _moved_meanwhile(name)
    alias.refresh_from_db()
    return alias


def _moved_meanwhile(name: str) -> ColdframeError:
    return ColdframeError(f"{name} was moved by someone else meanwhile.", hint="Look again, then decide.",
                          code="conflict", status=409)  # fmt: skip
