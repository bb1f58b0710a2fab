"""JSON from strangers: one object, no key twice, no NaN, no depth that breaks the reader."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ml.errors import ArtifactError


def strict_json(raw: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `raw` (UTF-8). `what` names it in the ArtifactError that anything else raises."""
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except RecursionError:
        raise _unreadable(what, "it is nested too deeply") from None
    except ValueError as error:
        raise _unreadable(what, str(error)[:120]) from None
    if not isinstance(found, dict):
        raise _unreadable(what, f"it is a {type(found).__name__}, not an object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Two readers may each take another of the two, so that what is checked is not what is used.
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands in it twice")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _unreadable(what: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"{what[:1].upper()}{what[1:]} cannot be read: {why}.",
        hint="Save the adapter again with peft's save_pretrained.",
        field="file",
    )
