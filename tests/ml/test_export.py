"""A merged model answers as base and adapter did, in plain transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ml.__main__ import main
from ml.artifact import load_adapter, write_artifact
from ml.backbone import load_backbone
from ml.errors import SpecError, StorageError
from ml.export import merge
from ml.foreign import import_adapter
from ml.specs import METHODS
from tests.ml.methods.building import SMALL, Shapes, built_on, forward
from tests.ml.running import Recorder, tiny_spec
from tests.ml.tiny import SHAPES

MERGING = sorted(name for name, method in METHODS.items() if method.merges)
OTHERS = sorted(set(METHODS) - set(MERGING))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    return Shapes(tmp_path_factory.mktemp("shapes"))


def artifact(folder: Path, shapes: Shapes, method: str, shape: str = "llama", **options: Any) -> Path:
    """An adapter whose numbers are random, as a folder."""
    backbone = shapes.backbone(shape, method)
    model = built_on(backbone, method, **options)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    fields = {field.name: field.default for field in METHODS[method].fields}
    spec = tiny_spec(method, base=shape, options={**fields, **SMALL.get(method, {}), **options})
    write_artifact(folder, model=model, backbone=backbone, spec=spec, metrics={}, evaluations=[])
    return folder


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("method", MERGING)
def test_the_merged_model_answers_as_base_and_adapter_did(
    method: str, shape: str, shapes: Shapes, tmp_path: Path
) -> None:
    folder = artifact(tmp_path / "adapter", shapes, method, shape)
    backbone = shapes.backbone(shape)
    adapted = load_adapter(backbone, folder)
    with torch.no_grad():
        wanted = forward(adapted, backbone)
    merge(folder, models_dir=shapes.folder, into=tmp_path / "merged")
    plain = load_backbone(tmp_path / "merged", labels=backbone.labels)
    assert type(plain.model) is type(shapes.backbone(shape).model)
    with torch.no_grad():
        assert (forward(plain.model, plain) - wanted).abs().max() <= 1e-5


def test_plain_transformers_loads_weights_tokenizer_and_template(shapes: Shapes, tmp_path: Path) -> None:
    merge(artifact(tmp_path / "adapter", shapes, "lora"), models_dir=shapes.folder, into=tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert not any("lora" in name for name, _ in model.named_parameters())
    own = AutoTokenizer.from_pretrained(shapes.at("llama"))
    assert tokenizer.chat_template == own.chat_template and model.generation_config.eos_token_id is not None
    text = "".join(p.read_text() for p in (tmp_path / "merged").iterdir() if p.suffix in (".json", ".md"))
    assert str(shapes.folder) not in text and str(tmp_path) not in text


def test_an_output_layer_that_was_shared_gets_a_matrix_of_its_own(shapes: Shapes, tmp_path: Path) -> None:
    merge(artifact(tmp_path / "adapter", shapes, "output_layers"), models_dir=shapes.folder, into=tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(shapes.at("llama"))
    assert torch.equal(model.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert not torch.equal(model.get_output_embeddings().weight, base.get_output_embeddings().weight)


def test_a_foreign_lora_on_a_shared_output_layer_leaves_the_embeddings(shapes: Shapes, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(shapes.at("llama"))
    config = LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
    theirs: Any = get_peft_model(base, config)
    ids = torch.tensor([[5, 9, 300]])
    with torch.no_grad():
        wanted = theirs.eval()(ids).logits
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    import_adapter(tmp_path / "theirs", models_dir=shapes.folder, base="llama", into=tmp_path / "adapter")
    merge(tmp_path / "adapter", models_dir=shapes.folder, into=tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert (model(ids).logits - wanted).abs().max() <= 1e-5


def test_half_as_large_when_asked(shapes: Shapes, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "adapter", shapes, "lora")
    merge(folder, models_dir=shapes.folder, into=tmp_path / "half", dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_a_card_of_a_quantized_run_says_what_was_rounded(shapes: Shapes, tmp_path: Path) -> None:
    merge(artifact(tmp_path / "adapter", shapes, "qlora"), models_dir=shapes.folder, into=tmp_path / "merged")
    assert "full-precision" in (tmp_path / "merged" / "README.md").read_text()


@pytest.mark.parametrize("method", OTHERS)
def test_what_changes_no_weights_says_so_and_what_to_do(method: str, shapes: Shapes, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "adapter", shapes, method)
    with pytest.raises(SpecError, match="there is nothing to merge") as caught:
        merge(folder, models_dir=shapes.folder, into=tmp_path / "merged")
    assert caught.value.hint.startswith("Download") and not (tmp_path / "merged").exists()


def test_a_full_disk_is_noticed_before_the_first_byte(
    shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artifact(tmp_path / "adapter", shapes, "lora")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"the disk of .* has 1,000 left"):
        merge(folder, models_dir=shapes.folder, into=tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_the_command_line_merges(shapes: Shapes, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "adapter", shapes, "ia3")
    events = Recorder()
    words = ["merge", "--adapter", str(folder), "--models", str(shapes.folder), "--into", str(tmp_path / "merged")]
    assert main(words, emit=events) == 0
    (finished,) = events.named("finished")
    assert finished["bytes"] == sum(path.stat().st_size for path in (tmp_path / "merged").iterdir())
