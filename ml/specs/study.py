"""What a study can be asked for: its techniques as a table, and its spec, checked.

A study measures techniques on one data set version by one metric on the same rows, each with its own search for the
learning rate. Its techniques are those of METHODS and ways of asking the untouched model; forms, API, the child
process and the reports iterate `TECHNIQUES`. Standard library only; no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ml.errors import SpecError
from ml.specs.common import COMMON_FIELDS
from ml.specs.fields import Field
from ml.specs.measures import EVALUATION_METRICS
from ml.specs.table import METHODS
from ml.specs.tasks import learnt_as
from ml.specs.train import check_fits

MOST_SEEDS = 10
MOST_TEST_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Technique:
    """A row of a study: a technique of training, or a way of asking the untouched model."""

    name: str
    """Key of TECHNIQUES; that of METHODS where it is trained."""
    label: str
    glyph: str
    summary: str
    kind: Literal["prompt", "trained"]
    has_chance: bool
    """Whether a seed changes the result; without chance it is measured once."""
    task: Literal["", "classification", "generation"] = ""
    """The only kind of task that it is for; empty: both."""
    families: tuple[str, ...] = ("decoder",)
    needs_collection: bool = False
    """Whether the study has to name a collection."""


_ASKED = (
    Technique(name="plain", label="Plain model", glyph="t-zero", kind="prompt", has_chance=False,
              families=("decoder", "encoder_decoder"), summary="The untouched model, asked as the rows are."),
    Technique(name="zero_shot", label="Zero-shot", glyph="t-zero", kind="prompt", has_chance=False,
              summary="An instruction that names the task and its labels."),
    Technique(name="few_shot", label="Few-shot, fixed", glyph="t-few", kind="prompt", has_chance=True,
              summary="The instruction and some training rows, drawn by the seed, in front of every question."),
    Technique(name="few_shot_nearest", label="Few-shot, nearest", glyph="t-few", kind="prompt", has_chance=False,
              summary="The instruction and the training rows most like the question."),
    Technique(name="retrieval", label="Retrieval", glyph="t-rag", kind="prompt", has_chance=False,
              needs_collection=True,
              summary="The instruction and the passages of a collection that are most like the question."),
    Technique(name="chain_of_thought", label="Chain of thought", glyph="t-cot", kind="prompt", has_chance=False,
              summary="The model writes its steps first; the answer is found behind them."),
    Technique(name="self_consistency", label="Chain of thought, votes", glyph="t-cot", kind="prompt", has_chance=True,
              summary="Several chains of thought are sampled, and their answers vote."),
)  # fmt: skip
TECHNIQUES: Mapping[str, Technique] = {
    **{row.name: row for row in _ASKED},
    **{
        method.name: Technique(
            name=method.name, label=method.label, glyph=method.glyph, summary=method.summary, kind="trained",
            has_chance=True, task=method.tasks[0] if len(method.tasks) == 1 else "", families=method.families,
        )
        for method in METHODS.values()
    },
}  # fmt: skip

STUDY_FIELDS: tuple[Field, ...] = (
    Field(name="steps", label="Steps", kind="int", default=60, low=1, high=1_000_000,
          help="Optimizer steps of a whole training; the search takes parts of them. A technique that brings its own "
               "number of cheap steps keeps it."),
    Field(name="batch_size", label="Rows per step", kind="int", default=16, low=1, high=4096,
          help="Rows whose gradients are added up before the weights move."),
    Field(name="n_tries", label="Learning rates tried", kind="int", default=3, low=1, high=9,
          help="The same number for every technique, around its own default, compared on the validation rows by "
               "successive halving. 1: no search, the default alone."),
    Field(name="budget_s", label="Budget", kind="float", default=0, low=0, high=30 * 86_400, unit="s",
          help="Device time that may be spent; the cheapest come first and what no longer fits is left out. 0: no "
               "limit."),
    Field(name="train_rows", label="Training rows", kind="int", default=0, low=0, high=10_000_000,
          help="At most so many, drawn by a fixed seed with labels in proportion; 0: all."),
    Field(name="valid_rows", label="Validation rows", kind="int", default=100, low=8, high=MOST_TEST_ROWS,
          help="At most so many; the learning rate is chosen on them."),
    Field(name="test_rows", label="Test rows", kind="int", default=200, low=2, high=MOST_TEST_ROWS,
          help="At most so many, the split's first; everything is measured on the same ones."),
    Field(name="max_length", label="Longest row", kind="int", default=512, low=8, high=131_072, unit="tokens",
          advanced=True, help="Prompt and answer together; longer prompts are cut at the start."),
    Field(name="max_tokens", label="Longest answer", kind="int", default=128, low=1, high=8192, unit="tokens",
          advanced=True, help="Tokens that may be written for a free answer; steps before an answer count."),
    Field(name="instruction", label="Instruction", kind="text", default="", high=4000, advanced=True,
          help="What the techniques that ask in words tell the model; {labels} stands for the labels. Empty: a "
               "sentence that fits the task."),
    Field(name="n_examples", label="Examples shown", kind="int", default=8, low=1, high=32, advanced=True,
          help="Training rows in front of a few-shot question."),
    Field(name="n_votes", label="Votes", kind="int", default=5, low=2, high=16, advanced=True,
          help="Chains of thought that vote on an answer."),
)  # fmt: skip
_BY_NAME = {field.name: field for field in STUDY_FIELDS}


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A whole study, as saved with it and in its report."""

    base: str
    """Name of a folder in the models folder."""
    dataset: str
    """Name and version for people, e.g. `support-intents@2`."""
    dataset_sha256: str
    metric: str
    """Key of EVALUATION_METRICS by which the techniques are ranked."""
    collection: str
    """Name of the collection that retrieval searches; "" without."""
    techniques: tuple[str, ...]
    """Keys of TECHNIQUES, in the table's order."""
    seeds: tuple[int, ...]
    """The search uses the first; every technique with chance in it is trained and measured with each."""
    shares: tuple[float, ...]
    """Smaller shares of the training rows that are measured too, by the first seed, each above 0 and below 1."""
    curve_techniques: tuple[str, ...]
    """Those that are measured with smaller shares; empty: all that learn from rows."""
    steps: int
    batch_size: int
    n_tries: int
    budget_s: float
    train_rows: int
    valid_rows: int
    test_rows: int
    max_length: int
    max_tokens: int
    instruction: str
    n_examples: int
    n_votes: int

    def as_dict(self) -> dict[str, Any]:
        lists = {name: list(value) for name, value in vars(self).items() if isinstance(value, tuple)}
        return {**asdict(self), **lists}


def why_not_studied(name: str, *, task: str, family: str) -> str:
    """Why a technique is not for this task or model; "" when it is. `task` is a key of TASK_KINDS."""
    technique, kind = TECHNIQUES[name], learnt_as(task)
    if name in METHODS:
        try:
            check_fits(METHODS[name], family=family, task=task)
        except SpecError as error:
            return error.message
        return ""
    if family not in technique.families:
        return f"{technique.label} asks a decoder model in words; this is an {family.replace('_', '-')}."
    if technique.task and technique.task != kind:
        return f"{technique.label} is for {technique.task}."
    return ""


def study_spec(given: Mapping[str, Any], *, task: str, family: str = "decoder") -> StudySpec:
    """A checked StudySpec: defaults filled in, unknown keys, values out of bounds and what does not fit refused.

    `given` has at least base, dataset, dataset_sha256 and techniques. Raises SpecError with `field` set.
    """
    if not isinstance(given, Mapping):
        raise SpecError(f"A study's spec must be an object, got {type(given).__name__}.")
    known = {f.name for f in fields(StudySpec)}
    if unknown := sorted(set(given) - known):
        raise SpecError(f"Unknown keys in the study's spec: {', '.join(map(str, unknown))}.", field=str(unknown[0]),
                        hint="Known: " + ", ".join(sorted(known)) + ".")  # fmt: skip
    values: dict[str, Any] = {}
    for name in ("base", "dataset", "dataset_sha256"):
        if not isinstance(given.get(name), str) or not given[name]:
            raise SpecError(f"The study's spec needs {name} as text, got {given.get(name)!r}.", field=name)
        values[name] = given[name]
    for name, field in _BY_NAME.items():
        values[name] = field.check(given.get(name, field.default))
    techniques, collection = _techniques(given.get("techniques"), task, family), given.get("collection") or ""
    if not isinstance(collection, str) or "\x00" in collection:
        raise SpecError(f"A collection is named by text, got {collection!r:.80}.", field="collection")
    if not collection and (needs := [name for name in techniques if TECHNIQUES[name].needs_collection]):
        raise SpecError(f"{TECHNIQUES[needs[0]].label} searches a collection, and the study names none.",
                        hint="Choose one, or leave the technique out.", field="collection")  # fmt: skip
    return StudySpec(
        **values, collection=collection, techniques=techniques, metric=_metric(given.get("metric"), task),
        seeds=_seeds(given.get("seeds", (17,))), shares=_shares(given.get("shares", ())),
        curve_techniques=_on_curve(given.get("curve_techniques", ()), given.get("techniques", ())),
    )  # fmt: skip


def metrics_for(task: str) -> list[str]:
    """Metrics that a study may rank by on a task kind: higher is better, and every technique can be measured by it."""
    kind = learnt_as(task)
    return [m.name for m in EVALUATION_METRICS.values() if m.task == kind and m.is_better_high]


def _metric(name: Any, task: str) -> str:
    fitting = metrics_for(task)
    if name in (None, ""):
        return fitting[0] if learnt_as(task) == "classification" else "token_f1"
    if name not in fitting:
        raise SpecError(f"A study on {learnt_as(task)} cannot be ranked by {str(name)[:60]!r}.",
                        hint=f"These fit: {', '.join(fitting)}.", field="metric")  # fmt: skip
    return str(name)


def _techniques(given: Any, task: str, family: str) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise SpecError(f"A study needs at least one technique, got {given!r:.80}.", field="techniques",
                        hint="Choose two or more, so that there is something to compare.")  # fmt: skip
    for name in given:
        if not isinstance(name, str) or name not in TECHNIQUES:
            raise SpecError(f"Unknown technique {str(name)[:60]!r}.", field="techniques",
                            hint="There is: " + ", ".join(TECHNIQUES) + ".")  # fmt: skip
        if reason := why_not_studied(name, task=task, family=family):
            raise SpecError(reason, hint="Leave it out.", field="techniques")
    return tuple(name for name in TECHNIQUES if name in given)


def _on_curve(given: Any, techniques: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise SpecError(f"The techniques of the data-size curve are a list, got {given!r:.80}.",
                        field="curve_techniques")  # fmt: skip
    if unknown := [name for name in given if name not in techniques]:
        raise SpecError(f"{str(unknown[0])[:60]!r} is not among the study's techniques.", field="curve_techniques",
                        hint="The data-size curve is drawn for techniques of the study.")  # fmt: skip
    return tuple(name for name in TECHNIQUES if name in given)


def _seeds(given: Any) -> tuple[int, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not 1 <= len(given) <= MOST_SEEDS:
        raise SpecError(f"Seeds are a list of 1 to {MOST_SEEDS} whole numbers, got {given!r:.80}.", field="seeds")
    field = next(f for f in COMMON_FIELDS if f.name == "seed")
    try:
        seeds = [int(field.check(seed)) for seed in given]
    except SpecError as error:
        raise SpecError(error.message, hint=error.hint, field="seeds") from error
    if len(set(seeds)) != len(seeds):
        raise SpecError(f"Every seed counts once, got {', '.join(map(str, seeds))}.", field="seeds")
    return tuple(seeds)


def _shares(given: Any) -> tuple[float, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) > 8:
        raise SpecError(f"Shares are a list of at most 8 numbers, got {given!r:.80}.", field="shares")
    for share in given:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < float(f"{share:g}") < 1:
            raise SpecError(f"A share of the training rows is above 0 and below 1, got {share!r:.40}.", field="shares",
                            hint="For example 0.1 and 0.3; all rows are always measured.")  # fmt: skip
    return tuple(sorted({float(f"{share:g}") for share in given}))
