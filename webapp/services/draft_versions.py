"""From the team's draft to a version: kept rows, each once, through the same reading and checks as any file.

A new data set is made of conversations. A name that exists gets its next version: its newest rows stay in their splits,
the draft's join its training rows in the form of its own mapping, without those whose question is held out. Guarantees:
rows are marked as stored only by the version that holds them, with their numbers there; a run that fails leaves the
draft as it was. Not possible, and said so: data sets whose prompts are made of several columns.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from ml.errors import ColdframeError, SpecError
from ml.specs import TASK_KINDS, learnt_as
from webapp import storage
from webapp.models import Dataset, DatasetVersion, DraftRow, DraftUse, Run, Team, Upload
from webapp.names import name_check
from webapp.selectors.dataset_rows import rows_of
from webapp.selectors.drafts import kept_of, without_repeats
from webapp.services.drafts import digest_of_texts

SPLIT = "split"
MAX_OLD_ROWS = 200_000
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,80})\}")
"""As in ml/data/mapping.py."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How rows are written down for a data set, so that its mapping reads them."""

    mapping: dict[str, Any]
    of_messages: Callable[[list[dict[str, str]], str], Row]
    """(messages as typed, answer) to the row's columns."""
    of_stored: Callable[[Row], Row]
    """A row of a version to its columns."""


def _as_conversation(messages: list[dict[str, str]], answer: str) -> Row:
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}


def _conversations(task: str, system: str = "") -> Form:
    mapping = {"format": "messages", "column": "messages", "task": task, **({"system": system} if system else {})}
    return Form(mapping=mapping, of_messages=_as_conversation,
                of_stored=lambda row: _as_conversation(row["messages"], row["completion"]))  # fmt: skip


def _literal(template: str) -> str:
    return template.replace("{{", "{").replace("}}", "}")


def _columns(version: DatasetVersion) -> Form:
    """Rows in the one column that the prompt has, taken out of the stored prompts again."""
    mapping = dict(version.mapping)
    asked = [match for match in _PLACEHOLDER.finditer(mapping.get("prompt", "")) if match[1]]
    answered = re.fullmatch(r"\s*\{([^{}\n]{1,80})\}\s*", mapping.get("completion", ""))
    if len(asked) != 1 or answered is None or asked[0][1] == answered[1] or SPLIT in (asked[0][1], answered[1]):
        raise SpecError(
            f"Rows of {version.dataset.name} are made of other columns than a question and an answer.", field="name",
            hint="Give another name: the draft becomes a data set of its own.",
        )  # fmt: skip
    before, after = _literal(mapping["prompt"][: asked[0].start()]), _literal(mapping["prompt"][asked[0].end() :])
    before, after = before.lstrip(), after.rstrip()

    def of_stored(row: Row) -> Row:
        text = row["messages"][-1]["content"]
        return {asked[0][1]: text.removeprefix(before).removesuffix(after), answered[1]: row["completion"]}

    def of_messages(messages: list[dict[str, str]], answer: str) -> Row:
        return {asked[0][1]: messages[-1]["content"], answered[1]: answer}

    return Form(mapping=mapping, of_messages=of_messages, of_stored=of_stored)


def form_of(version: DatasetVersion | None, task: str) -> Form:
    """Raises SpecError for a data set that draft rows cannot join."""
    if version is None:
        return _conversations(task)
    if version.mapping.get("format", "columns") == "columns":
        return _columns(version)
    return _conversations(version.task, version.mapping.get("system", ""))


@transaction.atomic
def draft_submit(*, team: Team, user: Any, name: str, task: str = "chat") -> Run:
    """A run that makes a version of the kept rows. Raises ColdframeError when there is none, or for a bad name."""
    from webapp.services.datasets import version_submit

    name = name_check(name)
    if task not in TASK_KINDS:
        raise SpecError(f"There is no task {task[:40]!r}.", hint="One of " + ", ".join(TASK_KINDS) + ".", field="task")
    dataset = Dataset.objects.for_team(team).filter(name=name).first()
    old = dataset.versions.select_related("dataset").first() if dataset else None
    if old is not None and old.n_rows > MAX_OLD_ROWS:
        raise SpecError(f"{old} has {old.n_rows:,} rows; the draft joins data sets of up to {MAX_OLD_ROWS:,}.",
                        field="name", hint="Give another name: the draft becomes a data set of its own.")  # fmt: skip
    rows, repeats = without_repeats(kept_of(team))
    form = form_of(old, task)
    lines, origins, there = _lines(old, rows, form)
    if not origins["new"]:
        raise ColdframeError(
            "Every kept row is in this data set already." if rows else "No row of the draft is kept.",
            hint="Judge or correct some answers in chat first.", field="name", status=409,
        )  # fmt: skip
    upload = _upload(team, user, name, lines, form)
    run = version_submit(
        team=team, user=user, upload=upload, name=name, mapping=form.mapping, drop_leaks=old is not None,
        splits={"kind": "column", "column": SPLIT} if old is not None else _cut(form.mapping["task"]),
    )  # fmt: skip
    Run.objects.filter(pk=run.pk).update(spec={**run.spec, "draft": {**origins, "repeats": [*repeats, *there]}})
    DraftRow.objects.filter(pk__in=origins["new"].values()).update(run=run)
    run.refresh_from_db()
    return run


def _cut(task: str) -> dict[str, Any]:
    kind = "stratified" if learnt_as(task) == "classification" else "random"
    return {"kind": kind, "validation": 0.1, "test": 0.1}


def _lines(
    old: DatasetVersion | None, rows: list[DraftRow], form: Form
) -> tuple[list[Row], dict[str, dict[str, int]], list[int]]:
    """What the run reads; by line number the draft rows in it, from earlier versions and new ones; and the draft rows
    whose text the data set holds already."""
    lines: list[Row] = []
    there: list[int] = []
    origins: dict[str, dict[str, int]] = {"old": {}, "new": {}}
    known: set[str] = set()
    uses = dict(old.draft_uses.values_list("number", "row_id")) if old is not None else {}
    for stored in rows_of(old) if old is not None else _nothing():
        values = form.of_stored(stored)
        lines.append({**values, SPLIT: stored["split"]})
        known.add(_text_digest(values))
        if stored["row"] in uses:
            origins["old"][str(len(lines))] = uses[stored["row"]]
    for row in rows:
        values = form.of_messages(row.messages, row.answer)
        if _text_digest(values) in known:
            there.append(row.pk)
            continue
        lines.append({**values, SPLIT: "train"})
        origins["new"][str(len(lines))] = row.pk
    return lines, origins, there


def _nothing() -> Iterator[Row]:
    return iter(())


def _text_digest(values: Mapping[str, Any]) -> str:
    return digest_of_texts(json.dumps(values, sort_keys=True, ensure_ascii=False))


def _upload(team: Team, user: Any, name: str, lines: list[Row], form: Form) -> Upload:
    """The rows as an upload like any other, looked at already: its columns are known."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    upload = Upload(team=team, created_by=user, key=uuid.uuid4(), filename=f"{name}-from-chat.jsonl",
                    size_bytes=len(text), state=Upload.State.READY, mapping=form.mapping)  # fmt: skip
    storage.put_file(io.BytesIO(text), upload.storage_key)
    empty = {"examples": [], "n_empty": 0, "n_distinct": None, "mean_length": 0, "values": []}
    upload.sha256 = uuid.uuid4().hex * 2  # Not a file that somebody could bring again.
    upload.report = {
        "format": "jsonl", "format_name": "Rows from chat", "encoding": "utf-8", "delimiter": "", "n_rows": len(lines),
        "n_problems": 0, "problems": [], "recognised": form.mapping.get("format", "columns"),
        "recognised_name": "judged and corrected answers", "split_column": SPLIT,
        "columns": [{"name": column, **empty} for column in lines[0]], "mapping": form.mapping,
    }  # fmt: skip
    upload.save()
    return upload


@transaction.atomic
def draft_stored(*, run: Run, version: DatasetVersion) -> None:
    """Notes which draft rows a new version holds, under which numbers, and drops those that had to be left out.

    Doing it twice changes nothing.
    """
    origins = run.spec.get("draft")
    if not origins:
        return
    there = {row["row"] for row in rows_of(version)}
    numbers = {int(number): pk for part in ("old", "new") for number, pk in origins[part].items()}
    known = set(DraftRow.objects.for_team(run.team).filter(pk__in=numbers.values()).values_list("pk", flat=True))
    DraftUse.objects.bulk_create(
        [DraftUse(team=run.team, created_by=run.created_by, version=version, number=number, row_id=pk)
         for number, pk in sorted(numbers.items()) if number in there and pk in known],
        ignore_conflicts=True,
    )  # fmt: skip
    rows = DraftRow.objects.for_team(run.team).filter(state=DraftRow.State.KEPT)
    stored = [pk for number, pk in origins["new"].items() if int(number) in there]
    rows.filter(pk__in=stored).update(state=DraftRow.State.STORED)
    # Left out: what says the same as another row, or asks what is held out for the test.
    rows.filter(pk__in=[*origins["new"].values(), *origins["repeats"]]).update(state=DraftRow.State.DROPPED)
