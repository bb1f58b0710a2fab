"""What can be asked for: the table of training methods, their fields and bounds, and the training spec.

Light on purpose (standard library only): web forms, API validation, the command line and the documentation iterate
`METHODS` and `COMMON_FIELDS`; nothing outside `ml/` names a method. No I/O here. A new method is one file in
`ml/methods/` and one row in `METHODS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ml.errors import SpecError

Kind = Literal["int", "float", "choice", "bool", "text"]
Form = Literal["plain", "prefix_kv", "lora_delta", "scale", "head", "own_backbone"]
Family = Literal["decoder", "encoder", "encoder_decoder"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One setting of a spec: how it is shown, what it may be."""

    name: str
    """Key in the spec."""
    label: str
    """What the form says."""
    kind: Kind
    default: Any
    low: float | None = None
    """Smallest allowed value (inclusive); for text: shortest length."""
    high: float | None = None
    """Largest allowed value (inclusive); for text: longest length."""
    choices: tuple[str, ...] = ()
    help: str = ""
    unit: str = ""
    advanced: bool = False
    """Hidden until "advanced" is opened."""

    def check(self, value: Any) -> Any:
        """`value` as this field's type. Raises SpecError naming the rule and the value received."""
        if self.kind == "bool":
            return self._check_bool(value)
        if self.kind in ("choice", "text"):
            return self._check_text(value)
        return self._check_number(value)

    def _refuse(self, rule: str, value: Any) -> SpecError:
        return SpecError(f"{self.label} must be {rule}, got {value!r}.", hint=self.help, field=self.name)

    def _check_bool(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if value in ("true", "on", "1", 1):
            return True
        if value in ("false", "off", "0", "", 0, None):
            return False
        raise self._refuse("true or false", value)

    def _check_text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._refuse("text", value)
        if self.kind == "choice" and value not in self.choices:
            raise self._refuse("one of " + ", ".join(self.choices), value)
        if self.kind == "text" and self.high is not None and len(value) > self.high:
            raise self._refuse(f"at most {self.high:g} characters long", f"{len(value)} characters")
        return value

    def _check_number(self, value: Any) -> int | float:
        whole = self.kind == "int"
        if isinstance(value, bool) or value is None:
            raise self._refuse("a number", value)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self._refuse("a whole number" if whole else "a number", value) from None
        if not math.isfinite(number):
            raise self._refuse("a finite number", value)
        if whole and number != int(number):
            raise self._refuse("a whole number", value)
        if self.low is not None and number < self.low:
            raise self._refuse(f"≥ {self.low:g}", value)
        if self.high is not None and number > self.high:
            raise self._refuse(f"≤ {self.high:g}", value)
        return int(number) if whole else number


@dataclass(frozen=True, kw_only=True)
class Method:
    """One training technique: what it is, when it wins, what it costs, what it exports, what can be set."""

    name: str
    label: str
    glyph: str
    """Symbol id in icons.svg."""
    summary: str
    wins: str
    costs: str
    paper: str
    arxiv: str
    form: Form
    """The serving form that its artifact has."""
    families: tuple[Family, ...]
    defaults: Mapping[str, Any]
    """Defaults of common fields that suit this method (learning rates differ by 30 x)."""
    fields: tuple[Field, ...]
    """Settings of its own, kept under `options` in the spec."""


PROMPT_TUNING = Method(
    name="prompt_tuning",
    label="Prompt tuning",
    glyph="t-prompt",
    summary="Trains a few virtual tokens in front of the input; the model stays as it is.",
    wins="Many small tasks on one model; an adapter of some kilobytes that never slows the batch.",
    costs="Needs a high learning rate and more steps than LoRA; takes a few positions of the context.",
    paper="Lester, Al-Rfou and Constant 2021, The Power of Scale for Parameter-Efficient Prompt Tuning",
    arxiv="2104.08691",
    form="prefix_kv",
    families=("decoder",),
    defaults={"learning_rate": 3e-2, "weight_decay": 0.0},
    fields=(
        Field(name="n_virtual_tokens", label="Virtual tokens", kind="int", default=20, low=1, high=512,
              help="How many trained vectors stand in front of the input. 20 is the paper's robust choice."),
        Field(name="init", label="Start from", kind="choice", default="vocabulary",
              choices=("vocabulary", "text", "random"), advanced=True,
              help="Embeddings of sampled vocabulary, of a text, or small random numbers."),
        Field(name="init_text", label="Start text", kind="text", default="", high=2000, advanced=True,
              help="Used when starting from text: an instruction for the task, repeated or cut to the virtual tokens."),
    ),
)  # fmt: skip

LORA = Method(
    name="lora",
    label="LoRA",
    glyph="t-lora",
    summary="Adds a low-rank change to the model's linear layers and trains only that.",
    wins="The best quality for its size on most tasks; learns quickly and forgives settings.",
    costs="Some megabytes an adapter; a few per cent of speed in the batch.",
    paper="Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models",
    arxiv="2106.09685",
    form="lora_delta",
    families=("decoder",),
    defaults={"learning_rate": 1e-3, "weight_decay": 0.0},
    fields=(
        Field(name="rank", label="LoRA rank", kind="int", default=8, low=1, high=256,
              help="Width of the low-rank change. 8 is plenty for most tasks."),
        Field(name="alpha", label="Alpha", kind="float", default=16, low=0.01, high=4096, advanced=True,
              help="The change is scaled by alpha / rank."),
        Field(name="dropout", label="Dropout", kind="float", default=0.0, low=0, high=0.9, advanced=True,
              help="Share of the adapter's inputs dropped while training."),
        Field(name="targets", label="Layers", kind="choice", default="all-linear",
              choices=("all-linear", "attention"), advanced=True,
              help="Every linear layer, or only the four projections of attention."),
        Field(name="rslora", label="Rank-stabilized scaling", kind="bool", default=False, advanced=True,
              help="Scale by alpha / sqrt(rank) (arXiv 2312.03732)."),
    ),
)  # fmt: skip

METHODS: dict[str, Method] = {m.name: m for m in (PROMPT_TUNING, LORA)}

COMMON_FIELDS: tuple[Field, ...] = (
    Field(name="steps", label="Steps", kind="int", default=100, low=1, high=1_000_000,
          help="Optimizer steps. Each sees one batch of rows."),
    Field(name="batch_size", label="Rows per step", kind="int", default=16, low=1, high=4096,
          help="Rows whose gradients are added up before the weights move."),
    Field(name="learning_rate", label="Learning rate", kind="float", default=1e-3, low=1e-8, high=10,
          help="The most important number. Each technique brings its own default."),
    Field(name="schedule", label="Schedule", kind="choice", default="cosine",
          choices=("cosine", "linear", "constant"), advanced=True, help="How the learning rate falls."),
    Field(name="warmup_ratio", label="Warm-up", kind="float", default=0.05, low=0, high=1, advanced=True,
          help="Share of the steps over which the learning rate rises from zero."),
    Field(name="weight_decay", label="Weight decay", kind="float", default=0.0, low=0, high=1, advanced=True,
          help="AdamW's decoupled weight decay on the trained weights."),
    Field(name="max_grad_norm", label="Clip gradients at", kind="float", default=1.0, low=0.001, high=1000,
          advanced=True, help="Largest L2 norm of the gradient."),
    Field(name="micro_batch_size", label="Rows at once", kind="int", default=8, low=1, high=4096, advanced=True,
          help="Rows in one forward pass; smaller needs less memory and gives the same result."),
    Field(name="max_length", label="Longest row", kind="int", default=512, low=8, high=131_072, unit="tokens",
          advanced=True, help="Prompt and answer together; longer prompts are cut at the start."),
    Field(name="eval_every", label="Evaluate every", kind="int", default=50, low=1, high=1_000_000, unit="steps",
          advanced=True, help="Steps between two looks at the validation rows."),
    Field(name="eval_rows", label="Rows to evaluate", kind="int", default=100, low=0, high=100_000, advanced=True,
          help="Validation rows per look; the test split is measured once, with up to as many rows."),
    Field(name="checkpoint_every", label="Checkpoint every", kind="int", default=25, low=1, high=1_000_000,
          unit="steps", advanced=True, help="Steps between two checkpoints; a killed run resumes at the last one."),
    Field(name="seed", label="Seed", kind="int", default=17, low=0, high=2**31 - 1, advanced=True,
          help="Fixes the data order and every random number."),
)  # fmt: skip


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
    eval_every: int
    eval_rows: int
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
    from dataclasses import replace

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
    return TrainSpec(**values)
