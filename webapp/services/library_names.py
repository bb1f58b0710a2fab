"""Names that adapters and prompts share: clients ask for both by their bare name, so a team has each name once.

Guarantees: whoever asks for a name that the other kind has, or is about to get from a run under way, is told at once;
what was trained all the same is published under a free name, never under one that a prompt answers to. Reads only.
"""

from __future__ import annotations

from typing import Any

from ml.errors import SpecError
from webapp.models import Adapter, Prompt, Run, Team
from webapp.names import name_check

MAKERS = (Run.Kind.TRAIN, Run.Kind.IMPORT)
"""Kinds of runs that publish an adapter."""
LONGEST = 80


def adapter_name_check(team: Team, given: Any, *, field: str = "name") -> str:
    """As `name_check`, for the name of an adapter. Raises SpecError also for a prompt's."""
    name = name_check(given, field=field)
    if _is_prompt(team, name):
        raise SpecError(f"There is a prompt {name!r}: clients that ask for {name} get that.", field=field,
                        hint="Choose another name.")  # fmt: skip
    return name


def prompt_name_check(team: Team, given: Any) -> str:
    """As `name_check`, for the name of a new prompt. Raises SpecError also for an adapter's, made or in the making."""
    name = name_check(given)
    if Adapter.objects.for_team(team).filter(name=name).exists():
        raise SpecError(f"There is an adapter {name!r}: clients that ask for {name} would get that.", field="name",
                        hint="Choose another name.")  # fmt: skip
    making = Run.objects.for_team(team).exclude(state__in=Run.TERMINAL).filter(kind__in=MAKERS, spec__adapter=name)
    if (run := making.first()) is not None:
        raise SpecError(f"Run #{run.pk} is making an adapter {name!r}.", field="name", hint="Choose another name.")
    return name


def adapter_name_free(team: Team, name: str) -> str:
    """The name under which an adapter is published: another one where a prompt has taken it meanwhile."""
    if Adapter.objects.for_team(team).filter(name=name).exists() or not _is_prompt(team, name):
        return name
    found, n = f"{name[: LONGEST - 8]}-adapter", 1
    while _is_prompt(team, found):
        n += 1
        found = f"{name[: LONGEST - 12]}-adapter-{n}"
    return found


def _is_prompt(team: Team, name: str) -> bool:
    return Prompt.objects.for_team(team).filter(name=name).exists()
