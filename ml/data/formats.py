"""Which known format a file is in, and which mapping to suggest for it.

Knows Alpaca, ShareGPT, OpenAI messages, prompt/completion, preference pairs, SQuAD, text/label and lone texts;
everything else is a table of columns, for which the text and answer columns are guessed from names and values.
Suggestions are only that: people change them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ml.data.mapping import as_text
from ml.data.readers import shown
from ml.data.report import spelling_family

FORMAT_LABELS = {
    "messages": "OpenAI messages",
    "sharegpt": "ShareGPT",
    "alpaca": "Alpaca",
    "prompt_completion": "prompt and completion",
    "preference": "preference pairs (the chosen answer is learnt)",
    "squad": "questions on passages (SQuAD)",
    "text": "texts without a question",
    "text_label": "text and label",
    "columns": "table of columns",
}
LABEL_NAMES = ("label", "labels", "category", "class", "intent", "queue", "target", "topic", "sentiment", "tag", "type")
TEXT_NAMES = ("text", "message", "sentence", "question", "body", "content", "query", "utterance", "input", "review")
ANSWER_NAMES = ("answer", "completion", "output", "response", "reply", "target", "summary", "translation")
PASSAGE_NAMES = ("context", "passage", "paragraph", "document", "article")
SPLIT_NAMES = ("split", "set", "fold", "subset", "partition")
_MANY = 1000
_SHOWN_LABELS = 50


@dataclass(kw_only=True)
class Column:
    """What was seen of one column over the whole file."""

    name: str
    n_filled: int = 0
    n_characters: int = 0
    longest: int = 0
    examples: list[str] = field(default_factory=list)
    values: Counter[str] | None = field(default_factory=Counter)
    """Counts of short values; None once there were too many."""

    def see(self, value: Any) -> None:
        text = as_text(value).strip()
        n = len(text)
        if not n:
            return
        self.n_filled += 1
        self.n_characters += n
        if n > self.longest:
            self.longest = n
        if len(self.examples) < 3:
            self.examples.append(shown(text))
        if self.values is not None:
            self.values[text[:200]] += 1
            if len(self.values) > _MANY:
                self.values = None

    @property
    def n_distinct(self) -> int:
        """Different values; one more than counted when there were too many."""
        return len(self.values) if self.values is not None else _MANY + 1

    @property
    def mean_length(self) -> float:
        return self.n_characters / self.n_filled if self.n_filled else 0.0

    def is_labels(self) -> bool:
        """True when the values look like classes: short, and each used several times."""
        if self.longest > 60 or not 0 < self.n_distinct <= 300:
            return False
        if self.name.lower() in LABEL_NAMES:
            return True
        return self.n_distinct <= max(2, self.n_filled / 3)

    def as_dict(self, n_rows: int) -> dict[str, Any]:
        few = self.values is not None and len(self.values) <= _SHOWN_LABELS
        return {
            "name": self.name,
            "examples": self.examples,
            "n_empty": n_rows - self.n_filled,
            "n_distinct": self.n_distinct if self.values is not None else None,
            "mean_length": round(self.mean_length, 1),
            "values": self.values.most_common() if few and self.values and self.longest <= 60 else [],
        }


def recognise(rows: Sequence[dict[str, Any]]) -> str:
    """Key of FORMAT_LABELS for the first rows of a file."""
    if not rows:
        return "columns"
    keys = set.intersection(*(set(row) for row in rows))
    first = rows[0]
    if "messages" in keys and isinstance(first["messages"], list):
        return "messages"
    if "conversations" in keys and isinstance(first["conversations"], list):
        return "sharegpt"
    if {"instruction", "output"} <= keys:
        return "alpaca"
    if {"prompt", "completion"} <= keys:
        return "prompt_completion"
    if {"chosen", "rejected"} <= keys and ("prompt" in keys or isinstance(first["chosen"], list)):
        return "preference"
    if {"question", "answers"} <= keys and isinstance(first["answers"], dict | list):
        return "squad"
    if "text" in keys and any(name in keys for name in ("label", "labels", "intent", "category")):
        return "text_label"
    if keys - set(SPLIT_NAMES) == {"text"}:
        return "text"
    return "columns"


def _named(columns: Sequence[Column], names: Sequence[str]) -> Column | None:
    by_name = {column.name.lower(): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def split_column(columns: Sequence[Column]) -> str:
    """The column that seems to say which split a row is in, or ""."""
    known = {"train", "training", "valid", "validation", "val", "dev", "test", "testing", "eval"}
    for column in columns:
        values = set(column.values or ())
        if values and {value.lower() for value in values} <= known:
            return column.name
    found = _named(columns, SPLIT_NAMES)
    return found.name if found and found.n_distinct <= 3 else ""


def suggest_mapping(kind: str, columns: Sequence[Column]) -> dict[str, str]:
    """A mapping for a file of format `kind`; prompt or completion are empty where no guess is possible."""
    if kind in ("messages", "sharegpt"):
        name = "messages" if kind == "messages" else "conversations"
        return {"format": kind, "column": name, "task": "chat"}
    if kind == "text":
        return {"format": kind, "column": "text", "task": "generation"}
    if kind == "squad":
        return {"format": kind, "task": "question_answering"}
    if kind == "preference":
        return {"format": kind, "task": "generation"}
    if kind == "alpaca":
        return {"format": kind, "task": _task(_named(columns, ("output",)))}
    if kind == "prompt_completion":
        answer = _named(columns, ("completion",))
        if any(example.startswith("[{") for column in columns for example in column.examples):
            return {"format": kind, "task": "chat"}
        return {"format": "columns", "task": _task(answer), "prompt": "{prompt}", "completion": "{completion}"}
    return _suggest_columns(columns)


def _task(answer: Column | None) -> str:
    return "classification" if answer is not None and answer.is_labels() else "generation"


def _suggest_columns(columns: Sequence[Column]) -> dict[str, str]:
    split = split_column(columns)
    rest = [column for column in columns if column.name != split and column.n_filled]
    answer = _named(rest, LABEL_NAMES) or _named(rest, ANSWER_NAMES)
    if answer is None:
        answer = next((column for column in reversed(rest) if column.is_labels()), rest[-1] if len(rest) > 1 else None)
    others = [column for column in rest if column is not answer]
    text = _named(others, TEXT_NAMES) or max(others, key=lambda column: column.mean_length, default=None)
    task = _task(answer)
    prompt = "{" + text.name + "}" if text is not None else ""
    if text is not None and task == "generation" and text.name.lower() == "question":
        return _questions(text, answer, _named(others, PASSAGE_NAMES))
    if text is not None and answer is not None and task == "classification":
        prompt = _labelled_prompt(text.name, answer)
    return {
        "format": "columns",
        "task": task,
        "prompt": prompt,
        "completion": "{" + answer.name + "}" if answer is not None else "",
    }


def _questions(text: Column, answer: Column | None, passage: Column | None) -> dict[str, str]:
    asked = f"Question: {{{text.name}}}\nAnswer:"
    return {
        "format": "columns",
        "task": "question_answering",
        "prompt": f"{{{passage.name}}}\n\n{asked}" if passage is not None else asked,
        "completion": "{" + answer.name + "}" if answer is not None else "",
    }


def _labelled_prompt(text: str, answer: Column) -> str:
    usual: dict[str, str] = {}
    for value, _ in (answer.values or Counter()).most_common():
        usual.setdefault(spelling_family(value), value.replace("{", "{{").replace("}", "}}"))
    labels = sorted(usual.values())
    named = ", ".join(labels)
    choice = f" Choose one of: {named}." if len(labels) <= 20 and len(named) <= 400 else ""
    return f"Name the {answer.name.lower()} of this text.{choice}\nText: {{{text}}}\n{answer.name.capitalize()}:"
