"""Every technique on every shape of model that it is for: it learns, leaves the base alone, exports, and resumes.

Iterates `METHODS`: a new technique is tested here by having a row there.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from ml.artifact import artifact_id, load_adapter, verify
from ml.backbone import load_backbone
from ml.data.rows import read_dataset
from ml.errors import SpecError
from ml.methods import build
from ml.objectives import objective_for
from ml.specs import METHODS, TrainSpec
from ml.train import Trainer
from tests.ml.running import Recorder, tiny_spec, tiny_trainer, train_until, train_whole
from tests.ml.tiny import SHAPES, save_tiny

ONE_OF_EACH_FAMILY = ("llama", "bert", "t5")
CASES = [(name, shape) for name, row in METHODS.items() for shape in SHAPES if SHAPES[shape] in row.families]
RESUMED = [(name, shape) for name, shape in CASES if shape in ONE_OF_EACH_FAMILY]
IMPOSSIBLE = [(n, s) for n, row in METHODS.items() for s in ONE_OF_EACH_FAMILY if SHAPES[s] not in row.families]
SMALL: dict[str, dict[str, Any]] = {"n_virtual_tokens": 4, "encoder_width": 16, "rank": 4, "k": 1}
AUTO = {
    "decoder": AutoModelForCausalLM,
    "encoder": AutoModelForSequenceClassification,
    "encoder_decoder": AutoModelForSeq2SeqLM,
}


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a tiny model of every shape."""
    folder = tmp_path_factory.mktemp("shapes")
    for shape in SHAPES:
        save_tiny(folder / shape, shape)
    return folder


def spec_for(method: str, shape: str, **changes: Any) -> TrainSpec:
    options = {f.name: SMALL[f.name] for f in METHODS[method].fields if f.name in SMALL}
    rate = {"learning_rate": max(0.03, METHODS[method].defaults["learning_rate"])}
    return tiny_spec(method, base=shape, **{"options": options, "schedule": "constant", **rate, **changes})


def loss_of(trainer: Trainer) -> float:
    """The mean loss over all training rows."""
    trainer.model.eval()
    with torch.no_grad():
        nll = [trainer.objective.nll(trainer.model, trainer.items[i : i + 6]) for i in range(0, 30, 6)]
    return float(torch.cat(nll).mean())


@pytest.mark.parametrize(("method", "shape"), CASES)
def test_it_learns_and_leaves_everything_else_bit_identical(
    method: str, shape: str, shapes_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    spec = spec_for(method, shape, steps=30, eval_rows=0, checkpoint_every=100)
    trainer = tiny_trainer(spec, model=shapes_dir / shape, dataset=tiny_dataset_dir, workdir=tmp_path)
    frozen = [(p, p.detach().clone()) for p in trainer.backbone.model.parameters() if not p.requires_grad]
    files = {p.name: p.read_bytes() for p in (shapes_dir / shape).glob("*.safetensors")}
    trainer._prepare()
    before = loss_of(trainer)
    trainer.run()
    assert loss_of(trainer) < 0.97 * before
    assert all(torch.equal(parameter, as_it_was) for parameter, as_it_was in frozen)
    assert files == {p.name: p.read_bytes() for p in (shapes_dir / shape).glob("*.safetensors")}


@pytest.mark.parametrize(("method", "shape"), CASES)
def test_what_is_saved_answers_as_what_was_trained(
    method: str, shape: str, shapes_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    spec = spec_for(method, shape, steps=3, eval_rows=0)
    trainer = tiny_trainer(spec, model=shapes_dir / shape, dataset=tiny_dataset_dir, workdir=tmp_path)
    trainer.run()
    assert verify(tmp_path / "out").family == SHAPES[shape]
    dataset = read_dataset(tiny_dataset_dir)
    rows = dataset.splits["test"][:4]
    trainer.model.eval()
    trained = trainer.objective.label_scores(trainer.model, rows, lambda: None)
    again = load_backbone(
        shapes_dir / shape,
        labels=trainer.backbone.labels or None,
        quantization="nf4" if method == "qlora" else "",
        seed=99,
    )
    loaded = load_adapter(again, tmp_path / "out")
    scores = objective_for(spec, again, dataset, 96).label_scores(loaded, rows, lambda: None)
    assert torch.allclose(torch.tensor(scores), torch.tensor(trained), atol=1e-4)


@pytest.mark.parametrize(("method", "shape"), [c for c in CASES if METHODS[c[0]].storage == "peft" and c[0] != "qlora"])
def test_plain_peft_loads_it_with_equal_logits(
    method: str, shape: str, shapes_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    family = SHAPES[shape]
    spec = spec_for(method, shape, steps=2, eval_rows=0)
    trainer = tiny_trainer(spec, model=shapes_dir / shape, dataset=tiny_dataset_dir, workdir=tmp_path)
    trainer.run()
    classes = {"num_labels": 3} if family == "encoder" else {}
    base = AUTO[family].from_pretrained(shapes_dir / shape, **classes)
    loaded = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    ids = torch.tensor([trainer.backbone.tokenizer("What colour is the frog?")["input_ids"]])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family == "encoder_decoder":
        inputs["decoder_input_ids"] = ids[:, :3]
    with torch.no_grad():
        assert torch.allclose(loaded(**inputs).logits, trainer.model.eval()(**inputs).logits, atol=1e-5)


def at_step(step: int) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == "step" and event["step"] == step


@pytest.mark.parametrize(("method", "shape"), RESUMED)
def test_killed_at_random_steps_it_ends_in_the_undisturbed_runs_bytes(
    method: str, shape: str, shapes_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    """Dropout is on where the technique has it, so that the random numbers of each step matter."""
    names = {field.name for field in METHODS[method].fields}
    options = {name: SMALL[name] for name in names & set(SMALL)} | {n: 0.2 for n in names if n.endswith("dropout")}
    spec = spec_for(method, shape, steps=7, checkpoint_every=1, eval_every=3, options=options)
    paths = {"model": shapes_dir / shape, "dataset": tiny_dataset_dir}
    train_whole(spec, **paths, workdir=tmp_path / "calm")
    kills = sorted(random.Random(f"{method} {shape}").sample(range(2, 7), 2))
    for step in kills:
        workdir = tmp_path / "killed"
        assert train_until(spec, signal_number=signal.SIGKILL, fatal=at_step(step), **paths, workdir=workdir) == -9
    emit = Recorder()
    train_whole(spec, emit=emit, **paths, workdir=tmp_path / "killed")
    assert [e["step"] for e in emit.named("step")] == list(range(kills[-1], 8))
    assert artifact_id(tmp_path / "killed" / "out") == artifact_id(tmp_path / "calm" / "out")


@pytest.mark.parametrize(("method", "shape"), IMPOSSIBLE)
def test_a_technique_that_a_family_cannot_have_says_why(
    method: str, shape: str, shapes_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        tiny_trainer(spec_for(method, shape), model=shapes_dir / shape, dataset=tiny_dataset_dir, workdir=tmp_path)
    assert caught.value.message == METHODS[method].not_for[SHAPES[shape]]


@pytest.mark.parametrize(("method", "shape"), [c for c in RESUMED if "generation" in METHODS[c[0]].tasks])
def test_free_answers_are_learned_too_or_refused_with_the_reason(
    method: str, shape: str, shapes_dir: Path, tiny_generation_dataset_dir: Path, tmp_path: Path
) -> None:
    spec = spec_for(method, shape, steps=2, dataset_sha256="b" * 64)
    paths = {"model": shapes_dir / shape, "dataset": tiny_generation_dataset_dir, "workdir": tmp_path}
    if SHAPES[shape] == "encoder":
        with pytest.raises(SpecError, match="An encoder model gives labels, not text"):
            tiny_trainer(spec, **paths)
        return
    manifest = train_whole(spec, **paths)
    assert {"exact_match", "rouge_l", "bleu", "chrf", "perplexity"} <= set(manifest.metrics)


@pytest.mark.parametrize(
    ("method", "shape"), [c for c in CASES if c[1] in ONE_OF_EACH_FAMILY and c[0] != "prefix_tuning"]
)
def test_gradient_checkpointing_changes_nothing_but_the_memory(
    method: str, shape: str, shapes_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    gradients = []
    for on in (False, True):
        spec = spec_for(method, shape, gradient_checkpointing=on, eval_rows=0)
        trainer = tiny_trainer(spec, model=shapes_dir / shape, dataset=tiny_dataset_dir, workdir=tmp_path / str(on))
        trainer._prepare()
        trainer.model.train()
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer._accumulate(trainer.items[:6])
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4)


def test_every_technique_builds_without_storage(shapes_dir: Path) -> None:
    """The memory plan puts every technique on a model of the meta device."""
    from ml.backbone import Backbone

    for method, shape in RESUMED:
        real = load_backbone(shapes_dir / shape, labels=["a", "b"])
        model = real.model.to("meta")
        there = {f: getattr(real, f) for f in ("tokenizer", "fingerprint", "family", "name", "folder", "labels")}
        made = build(Backbone(model=model, **there), method, spec_for(method, shape).options, 0)
        assert any(p.requires_grad for p in made.parameters()), json.dumps([method, shape])
