"""SECURITY.md row 12: adapter_config.json is data with bounds; it names no pattern, no code and no model."""

from __future__ import annotations

from typing import Any

import pytest

from ml.errors import ArtifactError, ColdframeError, SpecError
from ml.foreign.config import Layers, read_config
from ml.foreign.strict_json import strict_json

LAYERS = Layers(
    linear=frozenset({"model.layers.0.q_proj", "model.layers.0.v_proj", "lm_head"}),
    others=frozenset({"model", "model.layers", "model.layers.0", "model.norm"}),
)


def lora(**changes: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **changes}


def read(given: dict[str, Any], family: str = "decoder") -> Any:
    return read_config(given, layers=LAYERS, family=family)


def test_bounds_are_those_of_the_methods_own_fields() -> None:
    with pytest.raises(SpecError, match="LoRA rank must be ≤ 256, got 1000000000"):
        read(lora(r=10**9))


@pytest.mark.parametrize("changes", [
    {"r": 0}, {"r": -1}, {"r": 2.5}, {"r": "many"}, {"r": True}, {"lora_alpha": 1e400}, {"lora_alpha": -1},
    {"lora_alpha": float("nan")}, {"lora_dropout": 2}, {"use_rslora": "yes"}, {"use_dora": 3},
])  # fmt: skip
def test_numbers_out_of_bounds_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ColdframeError):
        read(lora(**changes))


def test_nan_in_the_file_is_no_number() -> None:
    with pytest.raises(ArtifactError, match="NaN is not a JSON number"):
        strict_json(b'{"lora_alpha": NaN}', "adapter_config.json")


@pytest.mark.parametrize("targets", [
    ".*", ".*q_proj", "(a+)+$", ["^q_proj$"], ["q_proj", ".*"], ["nothing"], [], None, [3], {"a": 1}, "model", ["norm"],
])  # fmt: skip
def test_layers_are_matched_by_name_and_never_by_pattern(targets: Any) -> None:
    with pytest.raises(ArtifactError, match="target_modules"):
        read(lora(target_modules=targets))


@pytest.mark.parametrize(("targets", "kept"), [
    ("q_proj", ["q_proj"]), (["v_proj", "q_proj"], ["q_proj", "v_proj"]), ("all-linear", "all-linear"),
    (["layers.0.q_proj"], ["layers.0.q_proj"]),
])  # fmt: skip
def test_exact_names_and_all_linear_are_taken(targets: Any, kept: Any) -> None:
    assert read(lora(target_modules=targets)).values["target_modules"] == kept


@pytest.mark.parametrize("changes", [
    {"modules_to_save": ["lm_head"]}, {"rank_pattern": {".*": 64}}, {"alpha_pattern": {"q": 1}},
    {"layers_pattern": "layers"}, {"layers_to_transform": [0]}, {"exclude_modules": ".*"}, {"bias": "all"},
    {"lora_bias": True}, {"megatron_config": {"a": 1}}, {"trainable_token_indices": [1]},
    {"layer_replication": [[0, 2]]}, {"target_parameters": ["x"]}, {"alora_invocation_tokens": [1]},
    {"init_lora_weights": "pissa"}, {"something_new": {"path": "/etc/passwd"}},
])  # fmt: skip
def test_settings_that_change_the_model_and_are_not_kept_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=f"sets {next(iter(changes))} to"):
        read(lora(**changes))


def test_what_names_code_models_or_files_is_left_out() -> None:
    found = read(lora(
        auto_mapping={"base_model_class": "Evil", "parent_library": "os"}, base_model_name_or_path="../../x",
        init_lora_weights="gaussian", loftq_config={"a": 1}, tokenizer_name_or_path="/etc/passwd",
    ))  # fmt: skip
    assert set(found.values) == {
        "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "fan_in_fan_out", "task_type",
        "inference_mode",
    }  # fmt: skip
    assert any("auto_mapping" in notice for notice in found.notices)


@pytest.mark.parametrize("kind", [None, "ADALORA", "lora", "XLORA", 3, ["LORA"]])
def test_an_unknown_kind_is_refused_with_the_list(kind: Any) -> None:
    with pytest.raises(ArtifactError) as caught:
        read({**lora(), "peft_type": kind})
    assert "PREFIX_TUNING" in caught.value.hint


def test_a_task_of_another_family_is_refused() -> None:
    with pytest.raises(ArtifactError, match="the base model is a decoder"):
        read(lora(task_type="SEQ_CLS"))


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])
@pytest.mark.parametrize("n_tokens", [0, 513, 10**9, None, "x"])
def test_virtual_tokens_are_bounded(kind: str, n_tokens: Any) -> None:
    with pytest.raises(ColdframeError):
        read({"peft_type": kind, "num_virtual_tokens": n_tokens})


def test_a_text_to_start_from_never_opens_a_tokenizer() -> None:
    found = read({
        "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "Answer", "tokenizer_name_or_path": "evil/repo",
        "tokenizer_kwargs": {"trust_remote_code": True},
    })  # fmt: skip
    assert found.values["prompt_tuning_init"] == "RANDOM" and "tokenizer_name_or_path" not in found.values


def test_inner_layers_of_ia3_must_be_among_its_targets() -> None:
    with pytest.raises(ArtifactError, match="that target_modules does not"):
        read({"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": ["v_proj"]})
