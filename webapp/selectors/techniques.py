"""Which techniques a base model and a data set can have, as cards with the reason where they cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ml.errors import SpecError
from ml.specs import GROUPS, METHODS, Group, Method, check_fits


@dataclass(frozen=True, kw_only=True)
class Card:
    """A technique to choose; `reason` says why it cannot be."""

    method: Method
    reason: str
    is_chosen: bool


@dataclass(frozen=True, kw_only=True)
class CardGroup:
    group: Group
    cards: list[Card]


def misfit(method: Method, *, family: str, task: str) -> SpecError | None:
    """Why `method` is not for this kind of model or data; its `field` is `method` or `base`. Unknown kinds fit."""
    if not family or not task:
        return None
    try:
        check_fits(method, family=family, task=task)
    except SpecError as error:
        return error
    return None


def reason_against(method: Method, *, family: str, task: str) -> str:
    """The reason on the card: what another choice of technique would solve."""
    error = misfit(method, family=family, task=task)
    return error.message if error and error.field == "method" else ""


def base_reason(*, family: str, task: str) -> str:
    """Why no technique can be had with a base model of `family` for `task`; "" when one can."""
    errors = [misfit(method, family=family, task=task) for method in METHODS.values()]
    return next((error.message for error in errors if error and error.field == "base"), "") if all(errors) else ""


def card_groups(*, chosen: Method, family: str, task: str) -> list[CardGroup]:
    """All techniques, those of one kind together."""
    return [
        CardGroup(group=group, cards=[
            Card(method=m, reason=reason_against(m, family=family, task=task), is_chosen=m is chosen)
            for m in group.methods
        ])
        for group in GROUPS
    ]  # fmt: skip


def reasons(families: Iterable[str], tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """For the page's module: by `family/task`, what stands against the base and against each technique."""
    return {
        f"{family}/{task}": {
            "base": base_reason(family=family, task=task),
            "methods": {name: reason_against(m, family=family, task=task) for name, m in METHODS.items()},
        }
        for family in sorted(set(families))
        for task in sorted(set(tasks))
    }
