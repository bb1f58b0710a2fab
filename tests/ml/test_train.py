"""The training loop on a tiny model: loss, events, manifests, errors. tests/ml/test_matrix.py has every technique."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ml.artifact import artifact_id, verify
from ml.backbone import load_backbone
from ml.data.chat import example_ids
from ml.data.rows import encode_rows, read_dataset
from ml.errors import DivergedError, OutOfMemoryError, SpecError
from ml.forward import completion_nll
from ml.limits import usable_length
from ml.optimization import learning_rate_at
from tests.ml.running import Recorder, tiny_spec, tiny_trainer, train_whole

QUESTION = [{"role": "user", "content": "What colour is the frog?"}]
methods = pytest.mark.parametrize("method", ["lora", "prompt_tuning"])


@methods
def test_the_artifact_gives_the_trained_logits_in_plain_peft(
    method: str, tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    spec = tiny_spec(method, steps=3)
    trainer = tiny_trainer(spec, model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)
    trainer.run()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), tmp_path / "out").eval()
    ids = torch.tensor([example_ids(trainer.backbone.tokenizer, QUESTION, "green", 64).ids])
    with torch.no_grad():
        expected = trainer.model.eval()(input_ids=ids).logits
        assert torch.equal(loaded(input_ids=ids).logits, expected)
        plain = load_backbone(tiny_llama_dir).model(input_ids=ids).logits
    assert not torch.allclose(expected[:, -ids.shape[1] :], plain)


@methods
def test_micro_batches_of_any_size_give_the_same_gradient(
    method: str, tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    gradients = []
    for size in (1, 4, 6):
        spec = tiny_spec(method, micro_batch_size=size)
        trainer = tiny_trainer(spec, model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)
        trainer._accumulate(trainer.items[:6])
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
    assert torch.allclose(gradients[0], gradients[2], atol=1e-6)


@methods
def test_the_loss_is_that_of_peft_on_each_row_alone(
    method: str, tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    """Shared prefixes, right padding and the shortened output layer change nothing but the rounding."""
    spec = tiny_spec(method)
    trainer = tiny_trainer(spec, model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)
    for parameter in trainer.parameters:
        torch.nn.init.normal_(parameter, std=0.2)
    model, examples = trainer.model.eval(), trainer.items[:5]
    with torch.no_grad():
        nll, owner = completion_nll(model, examples)
        for row, example in enumerate(examples):
            ids = torch.tensor([example.ids])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(example.ids) :]
            logprobs = logits.log_softmax(-1)[example.n_prompt - 1 : -1]
            expected = -logprobs.gather(1, ids[0, example.n_prompt :, None])[:, 0]
            assert torch.allclose(nll[owner == row], expected, atol=1e-4)


def test_events_tell_the_whole_run(tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    emit = Recorder()
    train_whole(tiny_spec(), emit=emit, model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)
    started = emit.named("started")[0]
    assert started.keys() == {"event", "n_steps", "base", "method", "n_trainable", "device"}
    assert [e["step"] for e in emit.named("step")] == list(range(1, 9))
    step_keys = {"step", "n_steps", "loss", "learning_rate", "grad_norm", "tokens_per_s", "elapsed_s", "eta_s"}
    assert emit.named("step")[0].keys() == step_keys | {"event", "peak_bytes"}
    looks = [(e["step"], e["split"], e["subject"]) for e in emit.named("eval")]
    assert looks == [
        (0, "validation", "plain"),
        (0, "test", "plain"),
        (4, "validation", "adapter"),
        (8, "validation", "adapter"),
        (8, "test", "adapter"),
    ]
    assert [e["step"] for e in emit.named("checkpoint")] == [2, 4, 6, 8]


def test_generation_is_measured_by_match_overlap_and_loss(
    tiny_llama_dir: Path, tiny_generation_dataset_dir: Path, tmp_path: Path
) -> None:
    emit = Recorder()
    spec = tiny_spec(dataset_sha256="b" * 64, steps=2)
    paths = {"model": tiny_llama_dir, "dataset": tiny_generation_dataset_dir, "workdir": tmp_path}
    manifest = train_whole(spec, emit=emit, **paths)
    assert manifest.metrics.keys() >= {"exact_match", "token_f1", "loss", "perplexity"}
    sample = emit.named("eval")[-1]["samples"][0]
    assert sample.keys() == {"row", "prompt", "expected", "got", "correct", "loss"}


def test_the_manifest_says_where_the_adapter_comes_from(
    tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    spec = tiny_spec(steps=2)
    train_whole(spec, model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)
    manifest = verify(tmp_path / "out")
    assert manifest.base == {"name": "tiny-llama", "fingerprint": load_backbone(tiny_llama_dir).fingerprint}
    assert manifest.dataset == {"name": "colours@1", "sha256": "a" * 64}
    assert manifest.spec == spec.as_dict()
    assert manifest.form == "lora_delta"
    assert "accuracy" in manifest.metrics
    texts = [(tmp_path / "out" / name).read_text() for name in ("adapter_config.json", "README.md", "manifest.json")]
    assert not any(str(tiny_llama_dir.parent) in text for text in texts)


@methods
def test_equal_runs_give_equal_artifacts(
    method: str, tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        spec = tiny_spec(method, steps=2)
        train_whole(spec, model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path / name)
    assert artifact_id(tmp_path / "one" / "out") == artifact_id(tmp_path / "two" / "out")


def test_a_learning_rate_that_is_far_too_high_fails_with_advice(
    tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(tiny_spec(), model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)
    monkeypatch.setattr(trainer, "_accumulate", lambda batch: math.nan)
    with pytest.raises(DivergedError, match="step 1: loss nan") as caught:
        trainer.run()
    assert "Lower the learning rate" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes")]
)
def test_running_out_of_memory_says_what_would_fit(
    error: Exception, tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml.limits import memory_advice

    trainer = tiny_trainer(tiny_spec(), model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)

    def fail(batch: Any) -> float:
        raise error

    monkeypatch.setattr(trainer, "_accumulate", fail)
    with (
        pytest.raises(OutOfMemoryError, match="3 rows at once") as caught,
        memory_advice(trainer.spec, trainer.needed, "cpu"),
    ):
        trainer.run()
    assert "rows at once to 1" in caught.value.hint


def test_the_schedule_warms_up_then_falls() -> None:
    spec = tiny_spec(steps=100, learning_rate=1.0, warmup_ratio=0.1)
    rates = [learning_rate_at(spec, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[-1] < 0.01
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_rows_that_are_too_long_are_cut_and_reported(
    tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    emit = Recorder()
    spec = tiny_spec(max_length=24)
    trainer = tiny_trainer(spec, model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path, emit=emit)
    assert max(len(example.ids) for example in trainer.items) == 24
    assert "21 of 30 training rows" in emit.named("phase")[0]["text"]
    tokenizer = trainer.backbone.tokenizer
    whole = encode_rows(read_dataset(tiny_dataset_dir).splits["train"], tokenizer, 96)
    assert trainer.items[3].ids == whole[3].ids[-24:]


def test_virtual_tokens_take_positions_from_the_row(tiny_llama_dir: Path) -> None:
    config = load_backbone(tiny_llama_dir).model.config
    assert usable_length(tiny_spec("lora", max_length=600), config) == 512
    crowded = tiny_spec("prompt_tuning", max_length=600, options={"n_virtual_tokens": 500})
    assert usable_length(crowded, config) == 12
    config.max_position_embeddings = 500
    with pytest.raises(SpecError, match="500 virtual tokens leave no room"):
        usable_length(crowded, config)


def test_a_base_without_chat_template_and_pad_token_trains(
    tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_llama_dir, tmp_path / "tiny-llama")
    (model / "chat_template.jinja").unlink(missing_ok=True)
    path = model / "tokenizer_config.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    kept = {k: v for k, v in about.items() if k not in ("pad_token", "chat_template")}
    path.write_text(json.dumps(kept), encoding="utf-8")
    trainer = tiny_trainer(tiny_spec(steps=2), model=model, dataset=tiny_dataset_dir, workdir=tmp_path / "run")
    assert trainer.backbone.tokenizer.chat_template is None
    assert "### Assistant:" in trainer.backbone.tokenizer.decode(trainer.items[0].ids)
    assert trainer.run() is not None
