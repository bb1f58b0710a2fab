"""What the training loop decides by itself: best weights, an early end, less memory, a full disk, the data order."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ml.artifact import WEIGHTS, artifact_id
from ml.checkpoint import trainables
from ml.data.rows import batch_rows
from ml.errors import DivergedError, OutOfMemoryError, SpecError, StorageError
from ml.looks import Looks
from tests.ml.running import Recorder, in_a_fork, tiny_spec, tiny_trainer, train_whole

Metrics = dict[int, float]


@pytest.fixture
def paths(tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path) -> dict[str, Path]:
    return {"model": tiny_llama_dir, "dataset": tiny_dataset_dir, "workdir": tmp_path / "run"}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """Accuracy on the validation rows by step, as the test says; a real tiny model's own is too noisy to plan with."""
    accuracies: Metrics = {}

    def measure(self: Any, step: int, split: str, subject: str, n_rows: int) -> dict[str, Any]:
        metrics = {"accuracy": accuracies.get(step, 0.0), "loss": 1.0}
        where = {"step": step, "split": split, "subject": subject}
        return {**where, "metrics": metrics, "intervals": {}, "n_rows": n_rows}

    monkeypatch.setattr(Looks, "_measure", measure)
    return accuracies


def test_the_weights_of_the_best_look_are_kept(paths: dict[str, Path], measured: Metrics) -> None:
    measured |= {2: 0.4, 4: 0.9, 6: 0.5, 8: 0.6}
    emit, seen = Recorder(), {}
    trainer = tiny_trainer(tiny_spec(eval_every=2), **paths, emit=emit)
    weights = dict.fromkeys((4, 8))

    def watch(event: str, **values: Any) -> None:
        emit(event, **values)
        if event == "step" and values["step"] in weights:
            seen[values["step"]] = {n: p.detach().clone() for n, p in trainables(trainer.model).items()}

    trainer.emit = watch
    trainer.run()
    assert trainer.kept_step == 4
    assert [(e["step"], e["value"]) for e in emit.named("best")] == [(2, 0.4), (4, 0.9)]
    kept = dict(trainables(trainer.model))
    assert all(torch.equal(kept[name], seen[4][name]) for name in kept)
    assert not all(torch.equal(kept[name], seen[8][name]) for name in kept)


def test_keeping_the_last_weights_is_a_choice(paths: dict[str, Path], measured: Metrics) -> None:
    measured |= {2: 0.9}
    trainer = tiny_trainer(tiny_spec(eval_every=2, keep_best=False), **paths)
    trainer.run()
    assert trainer.kept_step == 8
    assert not (paths["workdir"] / "best").exists()


def test_it_ends_early_when_the_looks_get_no_better(paths: dict[str, Path], measured: Metrics) -> None:
    measured |= {2: 0.9, 4: 0.5, 6: 0.5}
    emit = Recorder()
    train_whole(tiny_spec(eval_every=2, patience=2, steps=100), **paths, emit=emit)
    assert emit.named("step")[-1]["step"] == 6
    assert "no better than step 2" in " ".join(e["text"] for e in emit.named("phase"))


def test_an_early_end_is_the_same_after_being_stopped_and_resumed(
    paths: dict[str, Path], measured: Metrics, tmp_path: Path
) -> None:
    measured |= {2: 0.9, 4: 0.5, 6: 0.5}
    spec = tiny_spec(eval_every=2, patience=2, steps=100, checkpoint_every=1)
    train_whole(spec, **{**paths, "workdir": tmp_path / "calm"})
    emit = Recorder()
    stopper = tiny_trainer(spec, **paths, emit=emit, should_stop=lambda: len(emit.named("step")) >= 5)
    assert stopper.run() is None
    train_whole(spec, **paths)
    assert artifact_id(paths["workdir"] / "out") == artifact_id(tmp_path / "calm" / "out")


def test_a_loss_that_never_falls_stops_the_run(
    paths: dict[str, Path], measured: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(tiny_spec(steps=40, flat_steps=20, learning_rate=1e-8), **paths)
    with pytest.raises(DivergedError, match="The loss is flat: after 20 steps"):
        trainer.run()
    assert trainer.progress.step == 20
    assert not (paths["workdir"] / "out").exists()


def out_of_memory_above(trainer: Any, n_rows: int) -> None:
    """Makes batches of more than `n_rows` fail as torch fails; a fault that a tiny model cannot make."""
    real = trainer.objective.nll

    def nll(model: Any, batch: list[Any]) -> Any:
        if len(batch) > n_rows:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes")
        return real(model, batch)

    trainer.objective.nll = nll


def test_out_of_memory_halves_the_rows_at_once_when_asked_to(paths: dict[str, Path], tmp_path: Path) -> None:
    emit = Recorder()
    spec = tiny_spec(micro_batch_size=6, on_out_of_memory="halve", steps=3)
    trainer = tiny_trainer(spec, **paths, emit=emit)
    out_of_memory_above(trainer, 2)
    assert trainer.run() is not None
    assert [e["text"] for e in emit.named("warning")] == [
        "Out of memory with 6 rows at once; going on with 3.",
        "Out of memory with 3 rows at once; going on with 1.",
    ]
    train_whole(tiny_spec(micro_batch_size=1, steps=3), **{**paths, "workdir": tmp_path / "one"})
    ours, small = (load_file(folder / "out" / WEIGHTS) for folder in (paths["workdir"], tmp_path / "one"))
    assert all(torch.equal(ours[name], small[name]) for name in ours)


def test_out_of_memory_stops_the_run_unless_asked_otherwise(paths: dict[str, Path]) -> None:
    from ml.limits import memory_advice

    trainer = tiny_trainer(tiny_spec(micro_batch_size=6), **paths)
    out_of_memory_above(trainer, 2)
    with pytest.raises(OutOfMemoryError), memory_advice(trainer.spec, trainer.needed, "cpu"):
        trainer.run()


def test_a_disk_that_is_full_during_a_checkpoint_loses_nothing(paths: dict[str, Path], tmp_path: Path) -> None:
    """The file size limit of the process stands in for the disk; the one before stays and the run goes on from it."""
    spec = tiny_spec(steps=6)
    train_whole(spec, **{**paths, "workdir": tmp_path / "calm"})

    def fill_up() -> None:
        emit = Recorder()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        trainer = tiny_trainer(spec, **paths, emit=emit)

        def limit(event: str, **values: Any) -> None:
            if event == "step" and values["step"] == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

        trainer.emit = limit
        try:
            trainer.run()
        except StorageError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            (tmp_path / "said.json").write_text(json.dumps(error.as_dict()), encoding="utf-8")

    assert in_a_fork(fill_up) == 0
    said = json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))
    assert "step-00000004 could not be written" in said["message"]
    assert [p.name for p in (paths["workdir"] / "checkpoints").iterdir()] == ["step-00000002"]
    train_whole(spec, **paths)
    assert artifact_id(paths["workdir"] / "out") == artifact_id(tmp_path / "calm" / "out")


def test_grouped_batches_see_every_row_once_an_epoch() -> None:
    lengths = [(7 * i) % 23 for i in range(64)]
    seen = [i for step in range(8) for i in batch_rows(5, step, 8, 64, lengths)]
    assert sorted(seen) == list(range(64))


def test_grouped_batches_hold_rows_of_like_length_in_a_drawn_order() -> None:
    lengths = [(7 * i) % 64 for i in range(64)]
    batches = [[lengths[i] for i in batch_rows(5, step, 8, 64, lengths)] for step in range(8)]
    assert all(max(batch) - min(batch) < 8 for batch in batches)
    assert [min(batch) for batch in batches] != sorted(min(batch) for batch in batches)


def test_grouping_is_a_function_of_seed_and_step() -> None:
    lengths = [(7 * i) % 23 for i in range(50)]
    assert batch_rows(5, 11, 6, 50, lengths) == batch_rows(5, 11, 6, 50, lengths)
    assert batch_rows(5, 11, 6, 50, lengths) != batch_rows(6, 11, 6, 50, lengths)


def test_checkpointing_is_refused_where_the_model_cannot(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    with pytest.raises(SpecError, match="tiny-llama cannot train with gradient checkpointing"):
        tiny_trainer(tiny_spec(gradient_checkpointing=True), **paths)


def test_bfloat16_trains_float32_adapters(paths: dict[str, Path]) -> None:
    trainer = tiny_trainer(tiny_spec(precision="bfloat16", steps=2), **paths)
    assert trainer.backbone.model.dtype == torch.bfloat16
    assert {p.dtype for p in trainer.parameters} == {torch.float32}
    assert trainer.run() is not None


def test_a_model_that_cannot_be_planned_trains_without_a_plan(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*args: Any, **values: Any) -> Any:
        raise NotImplementedError("aten::nonzero on meta")

    monkeypatch.setattr("ml.cli_train.plan", plan)
    emit = Recorder()
    assert tiny_trainer(tiny_spec(steps=1), **paths, emit=emit).run() is not None
    assert "aten::nonzero on meta" in emit.named("warning")[0]["text"]
    assert emit.named("plan") == []
