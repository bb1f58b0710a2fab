"""How the columns of a brought file become prompts, answers and splits: checked before a worker is asked.

One set of rules for pages and API; what a worker's reading checks again is the same (ml/data/mapping.py, splitting.py).
Guarantees: every placeholder names a column of the file; what comes out holds nothing that was not asked for. Writes
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ml.errors import ColdframeError, SpecError
from ml.specs import TASK_KINDS, learnt_as
from webapp.models import Upload

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,80})\}")
"""As in ml/data/mapping.py."""
KNOWN_FORMATS = {
    "messages": "OpenAI messages",
    "sharegpt": "ShareGPT",
    "alpaca": "Alpaca",
    "prompt_completion": "prompt and completion",
    "preference": "preference pairs: the chosen answer",
    "squad": "questions on passages (SQuAD)",
    "text": "texts without a question",
}
CONVERSATIONS = ("messages", "sharegpt")
TURNS = ("last", "every")
KEYS = ("format", "task", "prompt", "completion", "system", "column", "turns")
MAX_TEMPLATE = 20_000
MAX_SEED = 2**31 - 1
DEFAULT_SHARE = 0.1
HELD_OUT = ("validation", "test")
_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")


def columns_of(upload: Upload) -> list[str]:
    return [column["name"] for column in upload.report.get("columns", [])]


def formats_of(upload: Upload) -> list[str]:
    """The formats that the file may be read as, the recognised one first."""
    recognised = upload.report.get("recognised", "columns")
    return [recognised, "columns"] if recognised in KNOWN_FORMATS else ["columns"]


def readable_check(upload: Upload) -> None:
    """Raises ColdframeError (409) for a file that has not been read yet, or holds no row."""
    if upload.state == Upload.State.READING or not upload.report.get("n_rows"):
        raise ColdframeError(
            f"{upload.filename} is not ready: {upload.get_state_display().lower()}.",
            hint="Wait until it has been read, or open it again.", status=409,
        )  # fmt: skip


def mapping_check(upload: Upload, given: Any) -> dict[str, str]:
    """The mapping with the format that the file was recognised as where none is given. Raises SpecError."""
    if not isinstance(given, Mapping):
        raise SpecError(f"A mapping must be an object, got {type(given).__name__}.", field="mapping")
    _known_keys(given, KEYS, "mapping")
    for key, value in given.items():
        if not isinstance(value, str) or len(value) > MAX_TEMPLATE:
            raise SpecError(f"{key} must be text of at most {MAX_TEMPLATE:,} characters.", field=key)
        if _BAD_TEXT.search(value):
            raise SpecError(f"{key} holds a NUL character or half a character.", field=key)
    formats = formats_of(upload)
    mapping = {"format": given.get("format") or formats[0], "task": given.get("task", "")}
    _one_of("format", mapping["format"], formats)
    _one_of("task", mapping["task"], list(TASK_KINDS))
    _one_of("turns", given.get("turns") or "last", TURNS)
    if mapping["format"] == "columns":
        for name in ("prompt", "completion"):
            template_check(name, given.get(name, ""), columns_of(upload))
        keys: tuple[str, ...] = ("prompt", "completion", "system")
    else:
        column = given.get("column") or (upload.report.get("mapping") or {}).get("column", "")
        given = {**given, "column": column}
        _column_check(column, columns_of(upload), mapping["format"])
        keys = ("system", "column", *(("prompt",) if mapping["format"] == "text" else ()))
    if mapping["format"] in CONVERSATIONS and given.get("turns") == "every":
        keys = (*keys, "turns")
    return mapping | {key: given[key] for key in keys if given.get(key, "").strip()}


def _known_keys(given: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = sorted(str(key) for key in set(given) - set(known))
    if unknown:
        raise SpecError(f"Unknown key {unknown[0][:60]!r} in {what}.", hint="Keys: " + ", ".join(known) + ".",
                        field=unknown[0][:60])  # fmt: skip


def _one_of(field: str, value: str, known: list[str] | tuple[str, ...]) -> None:
    if value not in known:
        raise SpecError(f"{field} must be one of {', '.join(known)}, got {value[:40]!r}.", field=field)


def _column_check(column: str, columns: list[str], format_name: str) -> None:
    if format_name in (*CONVERSATIONS, "text") and column not in columns:
        raise SpecError(f"There is no column {column[:80]!r}.", field="column",
                        hint="Columns: " + ", ".join(columns[:12]) + ".")  # fmt: skip


def template_check(name: str, template: str, columns: list[str]) -> None:
    """Raises SpecError for a template that names no column, or one that is not there."""
    known = [f"{{{column}}}" for column in columns[:12]]
    if name == "completion" and template.strip() in columns:
        return
    used = [found for found in PLACEHOLDER.findall(template) if found]
    unknown = [found for found in used if found not in columns]
    if unknown:
        raise SpecError(f"There is no column {{{unknown[0]}}}.", hint=f"Known here: {', '.join(known)}.", field=name)
    if not used:
        example = f", for example {known[0]}" if known else ""
        raise SpecError(f"Name at least one column{example}.", hint="Every row would be the same.", field=name)


def splits_suggested(upload: Upload, task: str) -> dict[str, Any]:
    """By the column that seems to say it, else drawn: by label where there are labels."""
    if column := upload.report.get("split_column", ""):
        return {"kind": "column", "column": column}
    kind = "stratified" if learnt_as(task) == "classification" else "random"
    return {"kind": kind, "validation": DEFAULT_SHARE, "test": DEFAULT_SHARE}


def splits_check(upload: Upload, given: Any) -> dict[str, Any]:
    """How the rows are dealt to train, validation and test; of kind `files`, the ids of the uploads that hold the
    latter two. Raises SpecError with `field` set."""
    if not isinstance(given, Mapping):
        raise SpecError(f"splits must be an object, got {type(given).__name__}.", field="splits")
    _known_keys(given, ("kind", "column", "validation", "test"), "splits")
    kind = given.get("kind", "stratified")
    _one_of("kind", str(kind), ("stratified", "random", "column", "files"))
    if kind == "files":
        return {"kind": kind, **_files(upload, given)}
    if kind == "column":
        column = given.get("column")
        if column not in columns_of(upload):
            raise SpecError(f"There is no column {column!r:.90} that could say the split.", field="column",
                            hint="Choose the column that says train, validation or test.")  # fmt: skip
        return {"kind": kind, "column": column}
    shares = {name: share_check(name, given.get(name, DEFAULT_SHARE)) for name in HELD_OUT}
    if sum(shares.values()) > 0.9:
        raise SpecError(f"Validation and test take {sum(shares.values()):.0%} of the rows.", field="test",
                        hint="Leave at least 10 % for training.")  # fmt: skip
    return {"kind": kind, **shares}


def _files(upload: Upload, given: Mapping[str, Any]) -> dict[str, int]:
    found = {name: given[name] for name in HELD_OUT if given.get(name) is not None}
    if not found:
        raise SpecError("No file was named for validation or test.", field="test",
                        hint="Name one, or have the rows of this file dealt out.")  # fmt: skip
    for name, pk in found.items():
        if isinstance(pk, bool) or not isinstance(pk, int):
            raise SpecError(f"{name} must be the number of an upload, got {pk!r:.40}.", field=name)
        if pk == upload.pk or list(found.values()).count(pk) > 1:
            raise SpecError(f"{name} must be a file of its own, got {pk} again.", field=name)
    return found


def held_out_of(upload: Upload, splits: Mapping[str, Any], mapping: Mapping[str, str]) -> list[tuple[str, Upload]]:
    """The uploads of held-out rows that checked splits name, each readable by the same mapping. Raises SpecError."""
    if splits["kind"] != "files":
        return []
    wanted = [splits[name] for name in HELD_OUT if name in splits]
    rows = {row.pk: row for row in Upload.objects.for_team(upload.team).filter(pk__in=wanted)}
    found = []
    for name in HELD_OUT:
        if name not in splits:
            continue
        other = rows.get(splits[name])
        if other is None:
            raise SpecError(f"There is no upload {splits[name]} in this team.", field=name, hint="Bring it first.")
        try:
            readable_check(other)
            mapping_check(other, mapping)
        except ColdframeError as error:
            raise SpecError(f"{other.filename}: {error.message}", field=name, hint=error.hint) from None
        found.append((name, other))
    return found


def share_check(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 0.9:
        raise SpecError(f"The share of {name} must lie between 0 and 0.9, got {value!r:.40}.", field=name)
    return float(value)


def seed_check(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise SpecError(f"The seed must be a whole number from 0 to {MAX_SEED:,}, got {value!r:.40}.", field="seed")
    return value
