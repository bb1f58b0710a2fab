"""The training spec: everything that decides what a run does, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ml.errors import SpecError
from ml.specs.common import COMMON_FIELDS
from ml.specs.fields import Field, Form, Method
from ml.specs.table import METHODS
from ml.specs.tasks import learnt_as


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """A whole training run, as saved with the run and inside the artifact's manifest."""

    method: str
    """Key of METHODS."""
    base: str
    """Name of a folder in the models folder."""
    dataset: str
    """Name and version for people, e.g. `support-intents@2`."""
    dataset_sha256: str
    """Content hash of the dataset version; its folder in the storage has this name."""
    steps: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    micro_batch_size: int
    max_length: int
    group_by_length: bool
    optimizer: str
    precision: str
    gradient_checkpointing: bool
    eval_every: int
    eval_rows: int
    keep_best: bool
    patience: int
    flat_steps: int
    on_out_of_memory: str
    checkpoint_every: int
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    """The method's own fields."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def method_named(name: Any) -> Method:
    """The row of METHODS. Raises SpecError listing what there is."""
    if not isinstance(name, str) or name not in METHODS:
        raise SpecError(f"Unknown method {name!r}.", hint="Methods: " + ", ".join(METHODS) + ".", field="method")
    return METHODS[name]


def common_fields_for(method: Method) -> tuple[Field, ...]:
    """COMMON_FIELDS with the method's own defaults put in."""
    return tuple(replace(f, default=method.defaults.get(f.name, f.default)) for f in COMMON_FIELDS)


def _reject_unknown(given: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise SpecError(f"Unknown {where}: {', '.join(map(str, unknown))}.", field=str(unknown[0]),
                        hint="Known: " + ", ".join(sorted(known)) + ".")  # fmt: skip


def train_spec(given: Mapping[str, Any]) -> TrainSpec:
    """A checked TrainSpec: defaults filled in, unknown keys and values out of bounds refused.

    `given` has at least method, base, dataset, dataset_sha256. Raises SpecError with `field` set.
    """
    if not isinstance(given, Mapping):
        raise SpecError(f"A spec must be an object, got {type(given).__name__}.")
    method = method_named(given.get("method"))
    _reject_unknown(given, {f.name for f in fields(TrainSpec)}, "keys in the spec")
    values: dict[str, Any] = {"method": method.name}
    for name in ("base", "dataset", "dataset_sha256"):
        text = given.get(name)
        if not isinstance(text, str) or not text:
            raise SpecError(f"The spec needs {name} as text, got {text!r}.", field=name)
        values[name] = text
    for spec_field in common_fields_for(method):
        values[spec_field.name] = spec_field.check(given.get(spec_field.name, spec_field.default))
    options = given.get("options") or {}
    if not isinstance(options, Mapping):
        raise SpecError(f"options must be an object, got {options!r}.", field="options")
    _reject_unknown(options, {f.name for f in method.fields}, f"options of {method.label}")
    values["options"] = {f.name: f.check(options.get(f.name, f.default)) for f in method.fields}
    if values["micro_batch_size"] > values["batch_size"]:
        values["micro_batch_size"] = values["batch_size"]
    _check_together(values)
    return TrainSpec(**values)


def _check_together(values: Mapping[str, Any]) -> None:
    """Rules that join several settings."""
    if values["gradient_checkpointing"] and values["method"] == "prefix_tuning":
        raise SpecError(
            "Gradient checkpointing does not go with prefix-tuning: it drops the keys and values that are trained.",
            hint="Switch it off, or use prompt tuning, P-tuning or LoRA.",
            field="gradient_checkpointing",
        )
    if values["options"].get("init") == "text" and not values["options"]["init_text"].strip():
        raise SpecError(
            "Starting from text needs a text, got an empty one.",
            hint="Write the task's instruction, or start from the vocabulary.",
            field="init_text",
        )


def check_fits(method: Method, *, family: str, task: str) -> None:
    """Raises SpecError saying why when `method` is not for base models of `family` or data sets of `task`."""
    task = learnt_as(task)
    if family == "encoder" and task == "generation":
        raise SpecError(
            "An encoder model gives labels, not text; this data set asks for free answers.",
            hint="Choose a decoder or an encoder-decoder model, or a classification data set.",
            field="base",
        )
    for what, allowed in ((family, method.families), (task, method.tasks)):
        if what not in allowed:
            reason = method.not_for.get(what, f"{method.label} is not for {what.replace('_', '-')} models.")
            raise SpecError(reason, hint="Choose another technique.", field="method")


def serving_form(spec: TrainSpec) -> Form:
    """How the engine carries what this spec makes."""
    return "own_backbone" if spec.options.get("dora") else METHODS[spec.method].form
