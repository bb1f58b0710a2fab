"""adapter_config.json from a stranger: known kinds, bounded numbers, names that the base model has; nothing else.

Guarantees: what comes out is a new configuration built from checked values, never the given one passed on; a setting
that would change what the model computes and is not kept is refused by name; a setting that only mattered for training,
or that names a model, a tokenizer or a library, is dropped. Layers are matched by exact names, never by patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml.errors import ArtifactError
from ml.specs import METHODS, Field

METHOD_OF = {
    "LORA": "lora", "IA3": "ia3", "PROMPT_TUNING": "prompt_tuning", "P_TUNING": "p_tuning",
    "PREFIX_TUNING": "prefix_tuning",
}  # fmt: skip
"""PEFT's name of a kind, and ours."""
TASK_OF = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "encoder": "SEQ_CLS"}
_DROPPED = (
    "auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode", "init_ia3_weights",
    "init_weights", "lora_ga_config", "loftq_config", "megatron_core", "peft_version",
    "prompt_tuning_init", "prompt_tuning_init_text", "qalora_group_size", "revision", "runtime_config", "task_type",
    "tokenizer_kwargs", "tokenizer_name_or_path", "fan_in_fan_out", "ensure_weight_tying", "num_layers",
)  # fmt: skip
"""Of training, or found anew from the server's own base model."""
_TOLD = ("auto_mapping", "tokenizer_name_or_path")
"""Dropped, and said when they were set."""
_HINTS = {
    "modules_to_save": "Train the adapter without modules_to_save: whole layers are no adapter.",
    "rank_pattern": "Train with one rank for all layers.",
    "alpha_pattern": "Train with one alpha for all layers.",
    "layers_pattern": "Name the layers in target_modules, in full.",
    "layers_to_transform": "Name the layers in target_modules, in full.",
    "exclude_modules": "Name the layers in target_modules, in full.",
    "init_lora_weights": "Convert it to a plain LoRA with peft's path_initial_model_for_weight_conversion.",
}
_HEADS = ("classifier", "score")
"""What PEFT saves along with a classifier's adapter."""
MAX_TARGETS = 4000
SHOWN_TARGETS = 500


@dataclass(frozen=True, kw_only=True)
class ForeignConfig:
    """What is left of a stranger's configuration."""

    method: str
    """Key of METHODS."""
    options: dict[str, Any]
    """The method's own fields, as far as they can be known."""
    values: dict[str, Any]
    """Keyword arguments of PEFT's configuration class."""
    peft_type: str
    notices: tuple[str, ...]
    base_named: str
    """The base model that the file names; for people only, never opened."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The base model's own modules, by full name."""

    linear: frozenset[str]
    others: frozenset[str]
    transposed: bool = False
    """True where linear layers keep their weight as [in, out] (GPT-2)."""


def read_config(given: Mapping[str, Any], *, layers: Layers, family: str) -> ForeignConfig:
    """The checked configuration. Raises ArtifactError or SpecError (bounds) with the setting's name as `field`."""
    kind = given.get("peft_type")
    if not isinstance(kind, str) or kind not in METHOD_OF:
        raise ArtifactError(
            f"adapter_config.json is of kind {str(kind)[:40]!r}.", field="peft_type",
            hint="Kinds that can be imported: " + ", ".join(METHOD_OF) + ".",
        )  # fmt: skip
    _check_task(given.get("task_type"), family)
    rest = dict(given)
    del rest["peft_type"]
    values, options = _READERS[kind](rest, layers)
    may_have_head = family == "encoder"
    notices = _check_rest(rest, may_have_head=may_have_head)
    return ForeignConfig(
        method=METHOD_OF[kind], options=options, peft_type=kind, notices=tuple(notices),
        values={**values, "task_type": TASK_OF[family], "inference_mode": True},
        base_named=str(given.get("base_model_name_or_path") or "")[:200],
    )  # fmt: skip


def _check_task(task: Any, family: str) -> None:
    if task is not None and task != TASK_OF[family]:
        raise ArtifactError(
            f"The adapter is for the task {str(task)[:40]!r}; the base model is {_a(family)} ({TASK_OF[family]}).",
            hint="Choose the base model that it was trained on.", field="base",
        )  # fmt: skip


def _a(family: str) -> str:
    return f"{'an' if family[0] in 'aeiou' else 'a'} {family.replace('_', '-')}"


def _check_rest(rest: dict[str, Any], *, may_have_head: bool) -> list[str]:
    """`rest` is what no reader took. Everything in it must be harmless or switched off."""
    notices = []
    for name, value in rest.items():
        is_off = value in (None, False, "", 0) or value in ([], {}, "none")
        if name in _DROPPED or is_off:
            if name in _TOLD and not is_off:
                notices.append(f"{name} in adapter_config.json was left out.")
            continue
        if name == "modules_to_save" and may_have_head and isinstance(value, list) and all(v in _HEADS for v in value):
            continue
        raise ArtifactError(
            f"adapter_config.json sets {name[:60]} to {str(value)[:80]!r}, which is not supported.",
            hint=_HINTS.get(name, "Train the adapter without it, or merge it with peft."), field=name[:60],
        )  # fmt: skip
    return notices


def _field(method: str, name: str) -> Field:
    return next(field for field in METHODS[method].fields if field.name == name)


def _take(rest: dict[str, Any], name: str, method: str, field: str, default: Any) -> Any:
    """A value within the bounds of the method's own field."""
    given = rest.pop(name, None)
    return _field(method, field).check(default if given is None else given)


def _flag(rest: dict[str, Any], name: str) -> bool:
    value = rest.pop(name, None)
    if value not in (None, True, False):
        raise ArtifactError(f"{name} must be true or false, got {str(value)[:40]!r}.", field=name)
    return bool(value)


def _lora(rest: dict[str, Any], layers: Layers) -> tuple[dict[str, Any], dict[str, Any]]:
    if rest.get("init_lora_weights") in (True, "gaussian", "orthogonal", "eva"):
        # The other ways to begin (PiSSA, OLoRA, CorDA, LoftQ …) change the base model's weights too.
        del rest["init_lora_weights"]
    options = {
        "rank": _take(rest, "r", "lora", "rank", 8),
        "alpha": _take(rest, "lora_alpha", "lora", "alpha", 8),
        "dropout": _take(rest, "lora_dropout", "lora", "dropout", 0.0),
        "rslora": _flag(rest, "use_rslora"),
        "dora": _flag(rest, "use_dora"),
    }
    targets = _targets(rest.pop("target_modules", None), layers, "target_modules")
    shown = targets if isinstance(targets, str) else ", ".join(targets)
    values = {
        "r": options["rank"], "lora_alpha": options["alpha"], "lora_dropout": options["dropout"],
        "use_rslora": options["rslora"], "use_dora": options["dora"], "target_modules": targets,
        "fan_in_fan_out": layers.transposed,
    }  # fmt: skip
    return values, {**options, "targets": shown if len(shown) <= SHOWN_TARGETS else "named in adapter_config.json"}


def _ia3(rest: dict[str, Any], layers: Layers) -> tuple[dict[str, Any], dict[str, Any]]:
    targets = _targets(rest.pop("target_modules", None), layers, "target_modules", may_be_all=False)
    inner = rest.pop("feedforward_modules", None)
    inner = [] if inner in (None, "", []) else _targets(inner, layers, "feedforward_modules", may_be_all=False)
    if not set(inner) <= set(targets):
        raise ArtifactError(
            "feedforward_modules names layers that target_modules does not.", field="feedforward_modules"
        )
    return {"target_modules": targets, "feedforward_modules": inner, "fan_in_fan_out": layers.transposed}, {}


def _n_virtual(rest: dict[str, Any], method: str) -> int:
    if rest.get("num_virtual_tokens") is None:
        raise ArtifactError("adapter_config.json does not say num_virtual_tokens.", field="num_virtual_tokens")
    return int(_take(rest, "num_virtual_tokens", method, "n_virtual_tokens", None))


def _drop_sizes(rest: dict[str, Any]) -> None:
    """Found anew from the base model; the tensors' shapes must fit what is found."""
    for name in ("token_dim", "num_attention_heads"):
        rest.pop(name, None)


def _n_stacks(rest: dict[str, Any]) -> int | None:
    """In how many stacks of an encoder-decoder the vectors stand; None leaves it to the family."""
    given = rest.pop("num_transformer_submodules", None)
    if given not in (None, 1, 2) or given is True:
        raise ArtifactError(
            f"num_transformer_submodules must be 1 or 2, got {str(given)[:40]!r}.", field="num_transformer_submodules"
        )
    return None if given is None else int(given)


def _prompt_tuning(rest: dict[str, Any], layers: Layers) -> tuple[dict[str, Any], dict[str, Any]]:
    n_tokens = _n_virtual(rest, "prompt_tuning")
    _drop_sizes(rest)
    values = {
        "num_virtual_tokens": n_tokens, "num_transformer_submodules": _n_stacks(rest), "prompt_tuning_init": "RANDOM"
    }  # fmt: skip
    return values, {"n_virtual_tokens": n_tokens}


def _p_tuning(rest: dict[str, Any], layers: Layers) -> tuple[dict[str, Any], dict[str, Any]]:
    n_tokens = _n_virtual(rest, "p_tuning")
    _drop_sizes(rest)
    kind = rest.pop("encoder_reparameterization_type", None) or "MLP"
    options = {"n_virtual_tokens": n_tokens, "encoder": _field("p_tuning", "encoder").check(str(kind).lower())}
    # The network itself was thrown away by peft when the adapter was saved: only what it made is in the file.
    if rest.get("encoder_hidden_size") is not None:
        options["encoder_width"] = _take(rest, "encoder_hidden_size", "p_tuning", "encoder_width", None)
    options["encoder_layers"] = _take(rest, "encoder_num_layers", "p_tuning", "encoder_layers", 2)
    options["encoder_dropout"] = _take(rest, "encoder_dropout", "p_tuning", "encoder_dropout", 0.0)
    rest.pop("encoder_hidden_size", None)
    values: dict[str, Any] = {
        "num_virtual_tokens": n_tokens, "num_transformer_submodules": _n_stacks(rest),
        "encoder_reparameterization_type": options["encoder"].upper(),
        "encoder_num_layers": options["encoder_layers"], "encoder_dropout": options["encoder_dropout"],
    }  # fmt: skip
    if "encoder_width" in options:
        values["encoder_hidden_size"] = options["encoder_width"]
    return values, options


def _prefix_tuning(rest: dict[str, Any], layers: Layers) -> tuple[dict[str, Any], dict[str, Any]]:
    n_tokens = _n_virtual(rest, "prefix_tuning")
    options: dict[str, Any] = {"n_virtual_tokens": n_tokens, "projection": _flag(rest, "prefix_projection")}
    values: dict[str, Any] = {"num_virtual_tokens": n_tokens, "prefix_projection": options["projection"]}
    if rest.get("encoder_hidden_size") is not None and options["projection"]:
        options["projection_width"] = _take(rest, "encoder_hidden_size", "prefix_tuning", "projection_width", None)
        values["encoder_hidden_size"] = options["projection_width"]
    rest.pop("encoder_hidden_size", None)
    rest.pop("num_transformer_submodules", None)
    _drop_sizes(rest)
    return values, options


_Reader = Callable[[dict[str, Any], Layers], tuple[dict[str, Any], dict[str, Any]]]
_READERS: Mapping[str, _Reader] = {
    "LORA": _lora, "IA3": _ia3, "PROMPT_TUNING": _prompt_tuning, "P_TUNING": _p_tuning,
    "PREFIX_TUNING": _prefix_tuning,
}  # fmt: skip


def _targets(given: Any, layers: Layers, field: str, *, may_be_all: bool = True) -> Any:
    """Names of linear layers of the base model, sorted; "all-linear" stays as it is where it may."""
    if given == "all-linear" and may_be_all:
        return given
    names: Sequence[Any] = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    if not names or len(names) > MAX_TARGETS or not all(isinstance(name, str) and name for name in names):
        raise ArtifactError(
            f"{field} must name layers of the base model, got {str(given)[:80]!r}.",
            hint="A list of names such as q_proj, v_proj.", field=field,
        )  # fmt: skip
    linear_ends, other_ends = _ends(layers.linear), _ends(layers.others)
    for name in names:
        if name not in linear_ends or name in other_ends:
            raise ArtifactError(
                f"{field} names {name[:80]!r}, which is no linear layer of the base model.",
                hint="Names are taken as they are, never as patterns. Known: " + ", ".join(_short(layers.linear)) + ".",
                field=field,
            )  # fmt: skip
    return sorted(set(names))


def _ends(names: frozenset[str]) -> set[str]:
    """Every name and what stands after each of its dots: what PEFT matches a plain name with."""
    found: set[str] = set()
    for name in names:
        parts = name.split(".")
        found |= {".".join(parts[i:]) for i in range(len(parts))}
    return found


def _short(names: frozenset[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names} - {"lm_head"})[:20]
