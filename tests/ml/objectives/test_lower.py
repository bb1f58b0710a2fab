"""Training on kept activations is training: the same loss and gradients, for every shape, through stops and damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.backbone import Backbone
from ml.checkpoint import trainables
from ml.data.rows import Dataset, read_dataset
from ml.errors import SpecError
from ml.looks import Stopped
from ml.methods import last_k, output_layers
from ml.objectives import Objective, objective_for
from ml.objectives.lower import LowerObjective
from ml.specs import TrainSpec, train_spec
from tests.ml.backbones import tiny_backbone
from tests.ml.running import Recorder
from tests.ml.tiny import SHAPES

METHODS = {"last_k": last_k, "output_layers": output_layers}
DROPOUT = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "t5": {"dropout_rate": 0.0},
    "bart": {"dropout": 0.0},
}


def spec_for(method: str, *, kept: bool, **changes: Any) -> TrainSpec:
    options: dict[str, Any] = {"cache_activations": kept} | ({"k": 1} if method == "last_k" else {})
    given = {"method": method, "base": "tiny", "dataset": "colours@1", "dataset_sha256": "a" * 64}
    return train_spec({**given, "options": options, **changes})


def made(method: str, backbone: Backbone, dataset: Dataset, *, kept: bool = True, **changes: Any) -> Any:
    """An objective with its model."""
    spec = spec_for(method, kept=kept, **changes)
    model = METHODS[method].build(backbone, spec.options, 0)
    return objective_for(spec, backbone, dataset, 96), model


def gradients(objective: Objective, model: Any, batch: list[Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    nll = objective.nll(model, batch)
    nll.mean().backward()
    return nll.detach(), {name: p.grad.clone() for name, p in trainables(model).items() if p.grad is not None}


def never() -> None:
    """Nobody asked to stop."""


@pytest.fixture(scope="module")
def dataset(tiny_dataset_dir: Path) -> Dataset:
    return read_dataset(tiny_dataset_dir)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_loss_and_gradients_are_those_of_the_whole_way(
    shape: str, method: str, dataset: Dataset, tmp_path: Path
) -> None:
    backbone = tiny_backbone(shape, **DROPOUT.get(shape, {}))
    objective, model = made(method, backbone, dataset)
    items = objective.encode(dataset.splits["train"])
    objective.prepare(model, items, tmp_path, Recorder(), never)
    model.train()
    batch = [items[n] for n in (7, 3, 22, 11)]
    whole, expected = gradients(objective.inner, model, batch)
    kept, found = gradients(objective, model, batch)
    assert torch.allclose(kept, whole, atol=1e-5)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in expected)


@pytest.mark.parametrize("shape", ["llama", "bert", "bart"])
def test_the_frozen_layers_do_not_run_again(shape: str, dataset: Dataset, tmp_path: Path) -> None:
    objective, model = made("last_k", tiny_backbone(shape), dataset)
    items = objective.encode(dataset.splits["train"])
    objective.prepare(model, items, tmp_path, Recorder(), never)
    frozen = [block for cut in objective._cuts for block in cut.blocks[: cut.n_below]]
    hooks = [block.register_forward_hook(_refuse) for block in frozen]
    objective.nll(model, items[:3])
    with pytest.raises(RuntimeError, match="ran again"):
        objective.inner.nll(model, items[:3])
    for hook in hooks:
        hook.remove()


def _refuse(*_: Any) -> None:
    raise RuntimeError("a frozen layer ran again")


def test_the_model_is_whole_after_a_batch_and_after_an_error(dataset: Dataset, tmp_path: Path) -> None:
    objective, model = made("last_k", tiny_backbone("llama"), dataset)
    before = [id(module) for module in model.modules()]
    items = objective.encode(dataset.splits["train"])
    objective.prepare(model, items, tmp_path, Recorder(), never)
    objective.nll(model, items[:3])
    hook = model.model.layers[1].register_forward_hook(_refuse)
    with pytest.raises(RuntimeError, match="ran again"):
        objective.nll(model, items[:3])
    hook.remove()
    assert [id(module) for module in model.modules()] == before


def test_a_resumed_run_reads_what_is_there_and_computes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    first, model = made("last_k", tiny_backbone("llama"), dataset)
    items = first.encode(dataset.splits["train"])
    first.prepare(model, items, tmp_path, Recorder(), never)
    again, other = made("last_k", tiny_backbone("llama"), dataset)
    told = Recorder()
    more = again.encode(dataset.splits["train"])
    again.prepare(other, more, tmp_path, told, never)
    assert not told.events
    assert torch.equal(first.nll(model, items[:4]), again.nll(other, more[:4]))


def _flip(folder: Path) -> None:
    shard = folder / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)


def _cut_short(folder: Path) -> None:
    (folder / "kept.json").write_text('{"schema": 1')


@pytest.mark.parametrize("damage", [_flip, _cut_short, shutil.rmtree])
def test_damaged_activations_are_computed_again_bit_by_bit(
    damage: Callable[[Path], None], dataset: Dataset, tmp_path: Path
) -> None:
    objective, model = made("last_k", tiny_backbone("llama"), dataset)
    items = objective.encode(dataset.splits["train"])
    objective.prepare(model, items, tmp_path, Recorder(), never)
    folder = tmp_path / "cache" / "lower"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder)
    told = Recorder()
    objective.prepare(model, items, tmp_path, told, never)
    assert told.named("progress")[-1]["done"] == len(items)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("change", ["rows", "cut", "base"])
def test_activations_of_another_run_are_not_used(change: str, dataset: Dataset, tmp_path: Path) -> None:
    objective, model = made("last_k", tiny_backbone("llama"), dataset)
    items = objective.encode(dataset.splits["train"])
    objective.prepare(model, items, tmp_path, Recorder(), never)
    if change == "rows":
        items = items[1:]
    elif change == "cut":
        objective.n_top = 0
    else:
        objective.identity |= {"base": "another"}
    told = Recorder()
    objective.prepare(model, items, tmp_path, told, never)
    assert told.named("progress")


def test_a_stop_leaves_nothing_half_done(dataset: Dataset, tmp_path: Path) -> None:
    objective, model = made("last_k", tiny_backbone("llama"), dataset)
    items = objective.encode(dataset.splits["train"])
    told = Recorder()

    def stop_after_one() -> None:
        if told.events:
            raise Stopped

    model.train()
    with pytest.raises(Stopped):
        objective.prepare(model, items, tmp_path, told, stop_after_one)
    assert list((tmp_path / "cache").iterdir()) == []
    assert model.training
    assert len(model.model.layers) == 2


def test_a_disk_without_room_is_said_with_both_numbers(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, model = made("last_k", tiny_backbone("llama"), dataset)
    items = objective.encode(dataset.splits["train"])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(SpecError, match=r"takes up to 0\.00 GB; .* has 0\.00 GB free") as caught:
        objective.prepare(model, items, tmp_path, Recorder(), never)
    assert caught.value.field == "cache_activations"
    assert "Switch off" in caught.value.hint


def test_what_all_rows_begin_with_is_kept_once(dataset: Dataset, tmp_path: Path) -> None:
    """A long instruction before every row made the kept file as large as rows times instruction."""
    rows = dataset.splits["train"][:16]
    instruction = {"role": "system", "content": "Answer with the colour. " * 12}
    long = [replace(row, messages=[instruction, *row.messages]) for row in rows]
    objective, model = made("last_k", tiny_backbone("llama"), dataset)
    objective.inner.max_length = 512
    items = objective.encode(long)
    objective.prepare(model, items, tmp_path, Recorder(), never)
    n_bytes = sum(path.stat().st_size for path in (tmp_path / "cache" / "lower").glob("*.safetensors"))
    assert n_bytes < sum(item.n_tokens for item in items) * 32 * 4 / 2


@pytest.mark.parametrize(("method", "cuts"), [("last_k", ["encoder"]), ("output_layers", ["encoder", "answer"])])
def test_t5_is_cut_inside_its_decoder_only_when_all_of_it_is_frozen(method: str, cuts: list[str], dataset: Dataset,
                                                                    tmp_path: Path) -> None:  # fmt: skip
    objective, model = made(method, tiny_backbone("t5"), dataset)
    objective.prepare(model, objective.encode(dataset.splits["train"]), tmp_path, Recorder(), never)
    assert [cut.name for cut in objective._cuts] == cuts


def test_nothing_is_kept_when_every_layer_is_trained(dataset: Dataset, tmp_path: Path) -> None:
    objective, model = made("last_k", tiny_backbone("llama"), dataset)
    objective.n_top = 2
    objective.prepare(model, objective.encode(dataset.splits["train"]), tmp_path, Recorder(), never)
    assert not (tmp_path / "cache").exists()


def test_gradient_checkpointing_goes_with_kept_activations(dataset: Dataset, tmp_path: Path) -> None:
    backbone = tiny_backbone("llama")
    objective, model = made("last_k", backbone, dataset, gradient_checkpointing=True)
    items = objective.encode(dataset.splits["train"])
    objective.prepare(model, items, tmp_path, Recorder(), never)
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    whole, expected = gradients(objective.inner, model, items[:4])
    kept, found = gradients(objective, model, items[:4])
    assert torch.allclose(kept, whole, atol=1e-5)
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in expected)


def test_switched_off_nothing_stands_between(dataset: Dataset) -> None:
    backbone = tiny_backbone("llama")
    assert not isinstance(made("last_k", backbone, dataset, kept=False)[0], LowerObjective)
    assert isinstance(made("last_k", backbone, dataset)[0], LowerObjective)
