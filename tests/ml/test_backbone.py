"""Finding, naming and loading base models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.backbone import ABOUT, family_of, fingerprint_of, load_backbone, model_folder
from ml.errors import ModelError, OutOfMemoryError
from tests.ml.tiny import SHAPES, save_tiny, save_tiny_llama


@pytest.fixture
def copied(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama_dir, tmp_path / "models" / "copied"))


def test_a_loaded_model_is_frozen_and_evaluating(tiny_llama_dir: Path) -> None:
    backbone = load_backbone(tiny_llama_dir)
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert (backbone.name, backbone.family, backbone.model.dtype) == ("tiny-llama", "decoder", torch.float32)
    assert backbone.tokenizer.pad_token_id is not None


@pytest.mark.parametrize("name", ["../models", "/etc", "a/b", "..", ".", "", ".hidden", "tiny-llama/../tiny-llama"])
def test_a_path_is_not_a_model_name(tiny_models_dir: Path, name: str) -> None:
    with pytest.raises(ModelError, match="is not the name of a model in the models folder"):
        model_folder(tiny_models_dir, name)


def test_a_link_that_leads_outside_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tiny_llama_dir)
    with pytest.raises(ModelError, match="is not the name of a model in the models folder"):
        model_folder(tmp_path, "linked")


def test_a_missing_model_says_how_to_get_the_starters(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model 'other'") as caught:
        model_folder(tmp_path, "other")
    assert "python -m ml starter" in caught.value.hint
    assert caught.value.code == "model_missing"


def test_the_fingerprint_follows_the_weights_and_not_the_folder(tiny_llama_dir: Path, copied: Path) -> None:
    assert fingerprint_of(copied) == fingerprint_of(tiny_llama_dir)
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert fingerprint_of(copied) != fingerprint_of(tiny_llama_dir)


def test_the_fingerprint_follows_the_architecture(tiny_llama_dir: Path, copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "transformers_version": "9.9"}))
    assert fingerprint_of(copied) == fingerprint_of(tiny_llama_dir)
    (copied / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert fingerprint_of(copied) != fingerprint_of(tiny_llama_dir)


def test_the_fingerprint_is_kept_beside_the_weights(copied: Path) -> None:
    (copied / ABOUT).write_text(json.dumps({"license": "mit"}))
    fingerprint = fingerprint_of(copied)
    about = json.loads((copied / ABOUT).read_text())
    assert (about["fingerprint"], about["license"]) == (fingerprint, "mit")


def test_weights_that_are_not_safetensors_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors weights"):
        load_backbone(copied)


def test_damaged_weights_are_a_model_error(copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="copied cannot be loaded"):
        load_backbone(copied)


@pytest.mark.parametrize("change", [{"model_type": "martian"}, {"auto_map": {"AutoModel": "code.Model"}}])
def test_models_of_unknown_kind_or_with_code_are_refused(copied: Path, change: dict[str, object]) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match="which cannot be used"):
        load_backbone(copied)


@pytest.mark.parametrize(("shape", "article"), [("bert", "an encoder"), ("t5", "an encoder-decoder")])
def test_a_family_that_was_not_asked_for_is_refused(tmp_path: Path, shape: str, article: str) -> None:
    with pytest.raises(ModelError, match=f"x is {article} model") as caught:
        load_backbone(save_tiny(tmp_path / "x", shape), families=("decoder",))
    assert "needs a decoder language model" in caught.value.hint


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_shape_is_loaded_as_its_family(tmp_path: Path, shape: str) -> None:
    backbone = load_backbone(save_tiny(tmp_path / "x", shape), labels=["red", "green", "blue"])
    assert backbone.family == SHAPES[shape] == family_of(tmp_path / "x")
    n_out = backbone.model(input_ids=torch.tensor([[5, 6]]), **_decoder_ids(shape)).logits.shape[-1]
    assert n_out == (3 if SHAPES[shape] == "encoder" else 384)
    assert backbone.labels == ("red", "green", "blue")


def _decoder_ids(shape: str) -> dict[str, torch.Tensor]:
    return {"decoder_input_ids": torch.tensor([[1]])} if SHAPES[shape] == "encoder_decoder" else {}


def test_an_encoder_without_labels_has_no_classifier(tmp_path: Path) -> None:
    backbone = load_backbone(save_tiny(tmp_path / "x", "bert"))
    assert backbone.labels == ()
    assert backbone.model(input_ids=torch.tensor([[5, 6]])).last_hidden_state.shape == (1, 2, 32)


def test_a_fresh_classifier_depends_on_its_seed_and_on_nothing_else(tmp_path: Path) -> None:
    folder, labels = save_tiny(tmp_path / "x", "bert"), ["red", "green"]
    first = load_backbone(folder, labels=labels).model.classifier.weight
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = load_backbone(folder, labels=labels).model.classifier.weight
    assert torch.equal(first, again)
    assert first.std() > 0
    assert not torch.equal(first, load_backbone(folder, labels=labels, seed=1).model.classifier.weight)
    assert torch.equal(before, torch.get_rng_state())


def test_a_classifier_of_other_labels_is_replaced(tmp_path: Path) -> None:
    """An encoder that was fine-tuned for five labels can be trained for three: only its classifier is drawn anew."""
    folder = save_tiny(tmp_path / "x", "bert")
    tuned = load_backbone(folder, labels=list("abcde")).model
    tuned.save_pretrained(folder)
    backbone = load_backbone(folder, labels=list("xyz"))
    assert backbone.model.classifier.weight.shape == (3, 32)
    assert torch.equal(backbone.model.bert.pooler.dense.weight, tuned.bert.pooler.dense.weight)


@pytest.mark.parametrize("labels", [["red"], ["red", "red"]])
def test_labels_that_tell_nothing_apart_are_refused(tmp_path: Path, labels: list[str]) -> None:
    with pytest.raises(ModelError, match="two or more different labels"):
        load_backbone(save_tiny(tmp_path / "x", "bert"), labels=labels)


def test_weights_that_are_missing_are_named_instead_of_drawn(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights.pop("model.layers.1.mlp.down_proj.weight")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of its architecture, such as model\.layers\.1\.mlp"):
        load_backbone(copied)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert", "t5", "bart"])
def test_four_bits_hold_the_linear_layers_and_leave_the_outputs_near(tmp_path: Path, shape: str) -> None:
    folder, labels = save_tiny(tmp_path / "x", shape), list("abcdefghijklmnop")
    ids = {"input_ids": torch.tensor([[5, 6, 7]]), **_decoder_ids(shape)}
    whole, small = load_backbone(folder, labels=labels), load_backbone(folder, labels=labels, quantization="nf4")
    kinds = {type(module).__name__ for module in small.model.modules()}
    assert "Linear4bit" in kinds
    assert small.fingerprint == whole.fingerprint
    assert not any(p.requires_grad for p in small.model.parameters())
    a, b = whole.model(**ids).logits, small.model(**ids).logits
    assert torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.8


def test_four_bits_leave_a_fresh_classifier_whole(tmp_path: Path) -> None:
    folder, labels = save_tiny(tmp_path / "x", "bert"), ["red", "green"]
    whole, small = (load_backbone(folder, labels=labels, quantization=q).model for q in ("", "nf4"))
    assert torch.equal(whole.classifier.weight, small.classifier.weight)
    assert torch.equal(whole.bert.pooler.dense.weight, small.bert.pooler.dense.weight)


def test_evaluating_does_not_change_what_four_bits_hold(tiny_llama_dir: Path) -> None:
    """bitsandbytes repacked the weights at the first look, with coarser scales: training went on with another base."""
    model = load_backbone(tiny_llama_dir, quantization="nf4").model
    ids = torch.tensor([[5, 6, 7]])
    before = model.train()(input_ids=ids).logits
    with torch.no_grad():
        model.eval()(input_ids=ids)
    assert torch.equal(model.train()(input_ids=ids).logits, before)


def test_four_bits_are_loaded_without_a_word_and_without_the_network(tiny_llama_dir: Path) -> None:
    """bitsandbytes would fetch a kernel from the hub at import, and warn when it cannot."""
    code = (
        "import sys, socket; socket.socket.connect = None\n"
        "from pathlib import Path; from ml.backbone import load_backbone\n"
        "assert 'bitsandbytes' not in sys.modules\n"
        f"load_backbone(Path({str(tiny_llama_dir)!r}), quantization='nf4')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_unknown_quantization_is_refused(tiny_llama_dir: Path) -> None:
    with pytest.raises(ModelError, match="Unknown quantization 'int3'"):
        load_backbone(tiny_llama_dir, quantization="int3")


@pytest.mark.parametrize("quantization", ["", "nf4"])
def test_a_model_that_is_quantized_already_is_refused(copied: Path, quantization: str) -> None:
    config = json.loads((copied / "config.json").read_text())
    given = {**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (copied / "config.json").write_text(json.dumps(given))
    with pytest.raises(ModelError, match=r"copied is already quantized \(gptq\)") as caught:
        load_backbone(copied, quantization=quantization)
    assert "original weights" in caught.value.hint


def test_an_encoder_decoder_without_a_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="decoder_start_token_id is missing"):
        load_backbone(save_tiny(tmp_path / "x", "t5", decoder_start_token_id=None))


def test_other_weights_have_another_fingerprint(tiny_llama_dir: Path, tmp_path: Path) -> None:
    assert fingerprint_of(save_tiny_llama(tmp_path / "other", seed=1)) != fingerprint_of(tiny_llama_dir)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_to_load_is_no_damage(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("ml.loading.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(OutOfMemoryError, match="not enough memory to load tiny-llama"):
        load_backbone(tiny_llama_dir)
