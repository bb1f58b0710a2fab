"""The first pass over a file: every row mapped, told apart by digests, and written to a spool.

Guarantees: memory grows by the tally alone; a row that cannot be used is counted and, for the first few, kept with its
number; the rows of further files are numbered on from the last one of the file before. Which split a row gets is
decided later (`ml.data.version`), unless its column or its file says so.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

import orjson

from ml.data.mapping import Mapped, Mapping, as_text, map_rows
from ml.data.readers import Problem, Row, read_rows, shown
from ml.data.sniff import Source
from ml.data.splitting import SPLITS, SplitSpec, split_named
from ml.data.tally import Tally, digest, exact_digest
from ml.errors import DataError

MAX_ROWS = 1_000_000
MAX_LABELS = 2_000
MAX_SHOWN = 20
Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file whose rows are all for one split."""

    source: Source
    split: str
    name: str
    """What people call the file."""


@dataclass(kw_only=True)
class Seen:
    """What the first pass collects."""

    tally: Tally = field(default_factory=Tally)
    labels: dict[str, int] = field(default_factory=dict)
    digests: list[int] = field(default_factory=list)
    """Of each label."""
    problems: list[Problem] = field(default_factory=list)
    n_problems: int = 0
    n_empty: int = 0
    n_rows: int = 0
    given: array[int] = field(default_factory=lambda: array("B"))
    """The split that a column or the file says, per kept row."""
    lengths: Counter[int] = field(default_factory=Counter)

    def refuse(self, problem: Problem) -> None:
        self.n_problems += 1
        self.n_empty += problem.kind == "empty"
        if len(self.problems) < MAX_SHOWN:
            self.problems.append(problem)


def read_all(
    parts: Sequence[Part], mapping: Mapping, splits: SplitSpec, spool: IO[bytes], progress: Progress | None
) -> Seen:
    """Every row of every part. `progress` is told the bytes read. Raises DataError for too many rows or labels."""
    seen = Seen()
    first, n_bytes = 0, 0
    for part in parts:
        told = None if progress is None else _from(progress, n_bytes)
        first = _read_part(seen, part, first, mapping, splits, spool, told)
        n_bytes += part.source.path.stat().st_size
    return seen


def _from(progress: Progress, n_bytes: int) -> Progress:
    return lambda position: progress(n_bytes + position)


def _read_part(
    seen: Seen, part: Part, first: int, mapping: Mapping, splits: SplitSpec, spool: IO[bytes],
    progress: Progress | None,
) -> int:  # fmt: skip
    """Returns the number of its last row, counted on from `first`."""
    by_column, number, own = splits.kind == "column", 0, SPLITS.index(part.split)
    for item in read_rows(part.source, progress=progress):
        seen.n_rows += 1
        if seen.n_rows > MAX_ROWS or len(seen.given) > MAX_ROWS:
            raise DataError(f"The file has more than {MAX_ROWS:,} rows.", hint="Cut it into several data sets.")
        mapped = map_rows(mapping, item) if isinstance(item, Row) else item
        if isinstance(item, Row):
            number = item.number
        split = _given_split(item, splits) if by_column and isinstance(item, Row) else own
        if isinstance(mapped, Problem):
            seen.refuse(_of_part(mapped, part, first))
        elif isinstance(split, Problem):
            seen.refuse(_of_part(split, part, first))
        else:
            for example in mapped:
                keep(seen, example, first, split, mapping.task, spool)
    return first + number


def _of_part(problem: Problem, part: Part, first: int) -> Problem:
    """The problem with the name of its file, where that is not the first."""
    return replace(problem, message=f"{part.name}: {problem.message}") if first else problem


def keep(seen: Seen, example: Mapped, first: int, split: int, task: str, spool: IO[bytes]) -> None:
    """Notes an example's digests and writes it to the spool."""
    tally, completion, messages = seen.tally, example.completion, example.messages
    answer = seen.digests[_label(seen, completion)] if task == "classification" else digest(completion)
    if len(messages) == 1:
        asked = messages[0]["content"]
        n = len(asked)
    else:
        asked = "\x1e".join([message["content"] for message in messages if message["role"] != "system"])
        n = sum([len(message["content"]) for message in messages])
    about: dict[str, Any] = {"messages": messages, "completion": completion}
    if example.answers:
        about["answers"] = example.answers
    body = orjson.dumps(about)
    number = first + example.row
    tally.numbers.append(number)
    tally.prompts.append(digest(example.key or asked))
    tally.completions.append(answer)
    tally.exact.append(exact_digest(body))
    if example.group:
        tally.groups.append(digest(example.group))
    seen.given.append(split)
    seen.lengths[n + len(completion)] += 1
    spool.write(b'{"row":%d,%b\n' % (number, body[1:]))


def _label(seen: Seen, completion: str) -> int:
    """The label's number. Raises DataError when there are too many."""
    number = seen.labels.setdefault(completion, len(seen.labels))
    seen.tally.labels.append(number)
    if number == len(seen.digests):
        seen.digests.append(digest(completion))
        if number >= MAX_LABELS:
            raise DataError(f"There are more than {MAX_LABELS:,} different labels.", field="task", code="many_labels",
                            hint="For free text choose the task “generation”.")  # fmt: skip
    return number


def _given_split(row: Row, splits: SplitSpec) -> int | Problem:
    word = as_text(row.values.get(splits.column))
    split = split_named(word)
    if split is not None:
        return split
    return Problem(
        row=row.number, column=splits.column, received=shown(word) or "(empty)", kind="split",
        message=f"Row {row.number} is in no known split.", hint="Use train, validation or test.",
    )  # fmt: skip
