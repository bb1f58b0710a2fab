"""What the rows of a data set are for, as a table: forms, validation, training and evaluation iterate it.

A task kind decides what is counted (labels or not), what a mapping may say, and which metrics make sense. For training
there are two cases only, `learnt_as`: one of a few fixed labels, or text. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ml.specs.fields import Task


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    name: str
    label: str
    """As a choice in a form."""
    short: str
    """As a cell in a table; for labels their number follows."""
    learnt_as: Task


_ROWS = (
    TaskKind(name="classification", label="Labels: one of a few fixed answers", short="labels",
             learnt_as="classification"),
    TaskKind(name="generation", label="Free text: one request, one text", short="free text", learnt_as="generation"),
    TaskKind(name="chat", label="Chat: conversations of several turns", short="chat", learnt_as="generation"),
    TaskKind(name="question_answering", label="Questions with short answers, with or without a passage",
             short="questions", learnt_as="generation"),
)  # fmt: skip
TASK_KINDS: Mapping[str, TaskKind] = {row.name: row for row in _ROWS}


def learnt_as(task: str) -> Task:
    """What training makes of a task kind; text for a kind that is not in the table."""
    kind = TASK_KINDS.get(task)
    return kind.learnt_as if kind else "generation"
