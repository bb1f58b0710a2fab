"""What is known of a study's rows before it starts: how many there are, and how many tokens of each kind a row has.

Lengths are those of a sample of training rows, encoded by the code that trains; how the untouched model is asked is
taken from its frames (`ml.study.asking`), put around rows of the sample. Where the report of a data set version knows
the lengths of all rows, those count. Limits: the nearest examples are taken to be as long as drawn ones, and a share of
the rows to be like all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from ml.data.chat import completion_ids, example_ids, prompt_ids
from ml.data.plain_text import target_ids, text_ids, text_pair
from ml.data.rows import Dataset, Row
from ml.engine.choices import n_nodes
from ml.errors import DataError
from ml.forward import n_common
from ml.retrieval.sources import sources_prompt
from ml.specs.study import TECHNIQUES, StudySpec
from ml.specs.tasks import learnt_as
from ml.study.asking import Asking
from ml.study.passages import Passages, passages_like

MOST_SAMPLED = 64
_ASKED_OF = 4
"""Rows of the sample that are asked; the others may be examples."""


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """How a row is asked."""

    n_tokens: float
    """Of the prompt, on average."""
    n_shared: int
    """Tokens that all prompts begin with."""
    n_samples: int = 1
    """Answers to each."""
    has_steps: bool = False
    """Whether steps are written before the answer."""


@dataclass(frozen=True, kw_only=True)
class DataFigures:
    n_train: int
    n_valid: int
    n_test: int
    mean: float
    """Tokens of a row, prompt and answer together, on average; of an encoder-decoder those of the source alone."""
    longest: int
    n_shared: int = 0
    """Tokens that all prompts begin with."""
    n_targets: float = 1.0
    """Tokens of an answer, its end included, on average."""
    longest_answer: int = 1
    label_tokens: tuple[int, ...] = ()
    """Of each label; none for free answers."""
    n_nodes: int = 0
    """Tokens that the engine would read to score every label, beginnings that labels share once."""
    asked: Mapping[str, Prompted] = field(default_factory=dict)
    """By technique; `plain` stands for every trained one."""


def figures_of(
    sample: Sequence[Row], *, spec: StudySpec, task: str, labels: Sequence[str], n_rows: Mapping[str, int],
    tokenizer: Any, family: str, mapping: Mapping[str, Any] | None = None, lengths: Mapping[str, Any] | None = None,
    passages: Sequence[str] = (),
) -> DataFigures:  # fmt: skip
    """`n_rows` by split. `passages`: as many as a row gets, as long as they usually are. `lengths`: what the data set's
    report says about tokens or characters of all rows (mean, longest, unit). Raises DataError when the
    sample is empty."""
    if not sample:
        raise DataError("There is no row to plan with.", hint="Give the training split at least one row.")
    sample = sample[:MOST_SAMPLED]
    found = [_COUNTERS[family](tokenizer, row, spec.max_length) for row in sample]
    mean, longest = _lengths(sample, found, lengths or {})
    n_targets = sum(one.n_targets for one in found) / len(found)
    labelled = learnt_as(task) == "classification"
    asked = _asked(sample, spec, task, labels, mapping or {}, tokenizer, passages) if family == "decoder" else {}
    label_ids = [_label_ids(tokenizer, family, label) for label in labels] if labelled else []
    return DataFigures(
        n_train=int(n_rows.get("train") or 0), n_valid=int(n_rows.get("validation") or 0),
        n_test=int(n_rows.get("test") or 0), mean=max(2.0, min(mean, spec.max_length)),
        longest=min(longest, spec.max_length), n_shared=n_common([one.prompt for one in found]),
        n_targets=n_targets, longest_answer=max(one.n_targets for one in found),
        label_tokens=tuple(map(len, label_ids)),
        n_nodes=n_nodes([tuple(ids) for ids in label_ids]) if label_ids and family == "decoder" else 0,
        asked=_shifted(asked, mean - n_targets),
    )  # fmt: skip


def _shifted(asked: Mapping[str, Prompted], n_plain: float) -> dict[str, Prompted]:
    """As if rows of all lengths had been asked: a row as it is has `n_plain` tokens on average."""
    more = n_plain - asked["plain"].n_tokens if asked else 0.0
    return {name: replace(one, n_tokens=max(one.n_shared + 1.0, one.n_tokens + more)) for name, one in asked.items()}


@dataclass(frozen=True)
class _Counted:
    n: int
    """As DataFigures.mean counts."""
    n_targets: int
    n_all: int
    """Prompt and answer."""
    prompt: list[int] = field(default_factory=list)
    """Of a decoder, without its last token: what rows may have in common."""


def _lengths(sample: Sequence[Row], found: Sequence[_Counted], known: Mapping[str, Any]) -> tuple[float, int]:
    """Mean and longest: the sample's, or what is known of all rows, scaled by how the sample's are counted."""
    total = sum(one.n for one in found)
    if not known:
        return total / len(found), max(one.n for one in found)
    size = sum(one.n_all for one in found)
    if known.get("unit") != "tokens":
        size = sum(len(row.completion) + sum(len(m["content"]) for m in row.messages) for row in sample)
    scale = total / max(1, size)
    return scale * float(known["mean"]), max(round(scale * float(known["longest"])), *(one.n for one in found))


def _of_decoder(tokenizer: Any, row: Row, most: int) -> _Counted:
    found = example_ids(tokenizer, row.messages, row.completion, most)
    return _Counted(found.n_tokens, found.n_targets, found.n_tokens, found.ids[: found.n_prompt - 1])


def _of_encoder(tokenizer: Any, row: Row, most: int) -> _Counted:
    n = len(text_ids(tokenizer, row.messages, most)[0])
    return _Counted(n, 1, n)


def _of_both(tokenizer: Any, row: Row, most: int) -> _Counted:
    found = text_pair(tokenizer, row.messages, row.completion, most)
    return _Counted(len(found.ids), found.n_targets, found.n_tokens)


_COUNTERS: Mapping[str, Callable[[Any, Row, int], _Counted]] = {
    "decoder": _of_decoder, "encoder": _of_encoder, "encoder_decoder": _of_both,
}  # fmt: skip


def _label_ids(tokenizer: Any, family: str, label: str) -> Sequence[int]:
    if family == "encoder":
        return [0]
    return completion_ids(tokenizer, label) if family == "decoder" else target_ids(tokenizer, label)[0]


def _asked(
    sample: Sequence[Row], spec: StudySpec, task: str, labels: Sequence[str], mapping: Mapping[str, Any],
    tokenizer: Any, passages: Sequence[str],
) -> dict[str, Prompted]:  # fmt: skip
    """Every way of asking that the spec names, and `plain`."""
    rows = [replace(row, number=number) for number, row in enumerate(sample, start=1)]
    rows, pool = rows[:_ASKED_OF], rows[_ASKED_OF:] or rows
    dataset = Dataset(
        task=learnt_as(task), kind=task, labels=list(labels), sha256="", content_sha256="",
        splits={"train": pool, "validation": [], "test": rows},
    )  # fmt: skip
    names = [name for name, row in TECHNIQUES.items() if row.kind == "prompt" and name in spec.techniques]
    like = passages_like(passages)
    return {name: _prompted(name, spec, dataset, mapping, tokenizer, like) for name in dict.fromkeys(["plain", *names])}


def _prompted(
    name: str, spec: StudySpec, dataset: Dataset, mapping: Mapping[str, Any], tokenizer: Any, passages: Passages
) -> Prompted:
    def found(name: str, n_examples: int) -> Prompted:
        asking = Asking(replace(spec, n_examples=n_examples), dataset, mapping, _no_vectors, passages)
        asked = asking.technique(name, spec.seeds[0])
        prompts = [prompt_ids(tokenizer, sources_prompt(asked.messages(row, mapping), asked.hits(row, mapping)))
                   for row in dataset.splits["test"]]  # fmt: skip
        return Prompted(
            n_tokens=sum(map(len, prompts)) / len(prompts), n_shared=n_common([ids[:-1] for ids in prompts]),
            n_samples=asked.frame.n_samples, has_steps=asked.writes_first,
        )  # fmt: skip

    if not name.startswith("few_shot"):
        return found(name, spec.n_examples)
    told = found("zero_shot", spec.n_examples)
    pool = Asking(spec, dataset, mapping, _no_vectors).pool
    n = min(spec.n_examples, len(pool))
    shown = (found("few_shot", n).n_tokens - told.n_tokens) / n if n else told.n_tokens
    more = spec.n_examples * shown
    n_shared = told.n_shared + (0 if name == "few_shot_nearest" else round(more))
    return Prompted(n_tokens=told.n_tokens + more, n_shared=n_shared)


def _no_vectors(_: Sequence[str]) -> NoReturn:
    raise NotImplementedError("the plan embeds nothing")
