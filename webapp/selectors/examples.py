"""Examples for prompts out of a data set version's training rows, and rows to try a prompt on. Reads only.

Guarantees: an example never comes from validation or test, and no training row whose question also stands there is
used, so that a prompt's measurement stays clean. The pool holds at most 20,000 rows, drawn by a fixed seed from the
first 200,000, so that a million rows cost seconds and little memory; `find_leaks` compares with every held-out row.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ml.errors import SpecError
from ml.specs.prompting import FIELD_NAME, QUESTION
from ml.specs.questions import question_of, single_column
from webapp import storage
from webapp.models import DatasetVersion, Team

POOL = 20_000
READ = 200_000
MAX_CHARACTERS = 4_000
"""Of a question and its answer; a longer row would leave no room for the question that is asked."""
HELD_OUT = ("validation", "test")
_POOLS_KEPT = 2
_pools: dict[str, list[Example]] = {}
_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row as an example: the question without the data set's own framing, and its answer."""

    question: str
    answer: str
    row: int
    """Its number in the file that was uploaded."""


def column_of(version: DatasetVersion) -> str:
    """The one column that a stored row still has by itself; "" where there is none or it cannot be a placeholder."""
    found = single_column(version.mapping)
    return found[1] if found and FIELD_NAME.fullmatch(found[1]) else ""


def fields_of(version: DatasetVersion) -> list[str]:
    """The placeholders that this data set's rows can fill."""
    column = column_of(version)
    return [QUESTION, column] if column and column != QUESTION else [QUESTION]


def rows(version: DatasetVersion, split: str) -> Iterator[Example]:
    with (storage.path_of(version.storage_key) / f"{split}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            question = question_of(version.mapping, row["messages"][-1]["content"])
            yield Example(question=question, answer=row["completion"], row=row["row"])


def _print_of(text: str) -> bytes:
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=12).digest()


def pool(version: DatasetVersion) -> list[Example]:
    """The training rows that may be examples; the same list each time. The last few stay in memory."""
    with _lock:
        found = _pools.get(version.sha256)
    if found is None:
        found = _read_pool(version)
        with _lock:
            _pools[version.sha256] = found
            while len(_pools) > _POOLS_KEPT:
                _pools.pop(next(iter(_pools)))
    return found


def _read_pool(version: DatasetVersion) -> list[Example]:
    held_out = {_print_of(example.question) for split in HELD_OUT for example in rows(version, split)}
    draw = random.Random(0)  # noqa: S311 - a sample, no secret
    kept: list[Example] = []
    short = (e for e in islice(rows(version, "train"), READ) if len(e.question) + len(e.answer) <= MAX_CHARACTERS)
    usable = (e for e in short if _print_of(e.question) not in held_out)
    for place, example in enumerate(usable):
        if place < POOL:
            kept.append(example)
        elif (at := draw.randrange(place + 1)) < POOL:
            kept[at] = example
    return kept


def random_examples(version: DatasetVersion, *, k: int, seed: int) -> list[Example]:
    """k rows in an order that the seed fixes. Raises SpecError when there are fewer."""
    found = pool(version)
    if len(found) < k:
        raise SpecError(f"{version} has {len(found)} training rows that may be examples, {k} are wanted.",
                        hint="Ask for fewer. Rows that also stand in validation or test are never used.",
                        field="k")  # fmt: skip
    return random.Random(seed).sample(found, k)  # noqa: S311


def one_a_label(version: DatasetVersion, *, seed: int) -> list[Example]:
    """A row for each label, in an order that the seed fixes. Raises SpecError for data without labels."""
    if not version.labels:
        raise SpecError(f"{version} has no labels.", hint="Draw at random.", field="dataset")
    draw = random.Random(seed)  # noqa: S311
    by_label: dict[str, list[Example]] = {}
    for example in pool(version):
        by_label.setdefault(example.answer, []).append(example)
    chosen = [draw.choice(found) for _, found in sorted(by_label.items())]
    draw.shuffle(chosen)
    return chosen


def find_leaks(
    version: DatasetVersion, questions: Sequence[str], splits: Sequence[str] = HELD_OUT
) -> list[tuple[int, str, int]]:
    """(place in `questions` from 1, split, row) of each question that is a row's of these splits."""
    places: dict[bytes, int] = {_print_of(question): place for place, question in enumerate(questions, start=1)}
    found = []
    for split in reversed(splits):
        for example in rows(version, split):
            if place := places.pop(_print_of(example.question), 0):
                found.append((place, split, example.row))
        if not places:
            break
    return sorted(found)


def try_rows(version: DatasetVersion, *, n: int = 3, seed: int = 0) -> list[Example]:
    """n rows of validation that the seed fixes; of train where there is no validation."""
    split = "validation" if version.splits.get("validation") else "train"
    found = list(islice(rows(version, split), 2000))
    return random.Random(seed).sample(found, min(n, len(found)))  # noqa: S311


def versions_for_prompts(team: Team, *, chosen: int | None = None) -> list[DatasetVersion]:
    """What the editor offers: every version of the data sets in use, newest first, and the one that is chosen."""
    rows_of_team = DatasetVersion.objects.for_team(team).select_related("dataset").order_by("dataset__name", "-number")
    found = list(rows_of_team.filter(dataset__is_archived=False)[:300])
    if chosen is not None and chosen not in {version.pk for version in found}:
        found += rows_of_team.filter(pk=chosen)
    return found
