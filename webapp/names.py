"""The one rule for names that people type and API clients send: data sets, adapters, aliases, prompts, collections."""

from __future__ import annotations

import re
from typing import Any

from django.utils.text import slugify

from ml.errors import SpecError

RULE = "lower-case letters, digits, - and _, beginning with a letter or digit"
RESERVED = frozenset({"base"})
"""`base` is the frozen model itself."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def name_check(name: Any, *, field: str = "name", longest: int = 80) -> str:
    """`name` stripped. Raises SpecError, with a name that would do, for anything that could not be typed or that
    would be taken for a version number or the plain model."""
    text = str(name or "").strip()
    if _NAME.fullmatch(text) and len(text) <= longest and not text.isdigit() and text not in RESERVED:
        return text
    better = slugify(text).strip("-_")[:longest]
    usable = bool(better) and better != text and not better.isdigit() and better not in RESERVED
    raise SpecError(
        f"A name is 1 to {longest} {RULE}; neither a bare number nor base. Got {text[:100]!r}.",
        hint=f"Try {better}." if usable else "For example support-triage.",
        field=field,
    )
