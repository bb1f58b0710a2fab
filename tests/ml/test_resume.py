"""A run that is killed goes on where it was and ends in the same bytes; test_matrix.py has every technique."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml import checkpoint
from ml.artifact import artifact_id
from ml.errors import SpecError
from tests.ml.conftest import save_tiny_llama
from tests.ml.running import Recorder, tiny_spec, tiny_trainer, train_until, train_whole


def at_step(step: int) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == "step" and event["step"] == step


@pytest.mark.parametrize("nth_write", [1, 2, 4])
def test_killed_inside_a_checkpoint_write_it_goes_on_from_the_one_before(
    nth_write: int, tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec(steps=6)
    paths = {"model": tiny_llama_dir, "dataset": tiny_dataset_dir}
    train_whole(spec, **paths, workdir=tmp_path / "calm")
    train_until(spec, signal_number=signal.SIGKILL, fatal=at_step(3), **paths, workdir=tmp_path / "killed")
    written = []

    def die(path: Path) -> None:
        written.append(path)
        if len(written) == nth_write:
            import os

            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("ml.files.flush_file", die)
        code = train_until(
            spec, signal_number=signal.SIGTERM, fatal=lambda event: False, **paths, workdir=tmp_path / "killed"
        )
    assert code == -9
    assert [p.name for p in (tmp_path / "killed" / "checkpoints").glob("step-*")] == ["step-00000002"]
    train_whole(spec, **paths, workdir=tmp_path / "killed")
    assert artifact_id(tmp_path / "killed" / "out") == artifact_id(tmp_path / "calm" / "out")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


def test_asked_to_stop_it_writes_a_checkpoint_and_goes_on_later(
    tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    spec = tiny_spec(steps=6, checkpoint_every=100)
    paths = {"model": tiny_llama_dir, "dataset": tiny_dataset_dir}
    train_whole(spec, **paths, workdir=tmp_path / "calm")
    emit = Recorder()
    stopper = tiny_trainer(
        spec, **paths, workdir=tmp_path / "stopped", emit=emit, should_stop=lambda: len(emit.named("step")) >= 3
    )
    assert stopper.run() is None
    assert emit.named("checkpoint")[-1]["step"] == 3
    assert not (tmp_path / "stopped" / "out").exists()
    train_whole(spec, **paths, workdir=tmp_path / "stopped")
    assert artifact_id(tmp_path / "stopped" / "out") == artifact_id(tmp_path / "calm" / "out")


@pytest.mark.parametrize("broken", ["trainables.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_older_one(
    broken: str, tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    spec = tiny_spec(steps=6)
    paths = {"model": tiny_llama_dir, "dataset": tiny_dataset_dir, "workdir": tmp_path}
    first = train_whole(spec, **paths)
    shutil.rmtree(tmp_path / "out")
    newest = checkpoint.folder_of(tmp_path, 6) / broken
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    newest.write_bytes(bytes(data))
    emit = Recorder()
    assert train_whole(spec, emit=emit, **paths) == first
    assert [e["step"] for e in emit.named("step")] == [5, 6]
    assert "step-00000006 is damaged" in " ".join(e["text"] for e in emit.named("phase"))


def test_only_the_newest_two_checkpoints_are_kept(tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    train_whole(tiny_spec(steps=8), model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]


def test_checkpoints_are_safetensors_and_json_only(
    tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    train_whole(tiny_spec(steps=2), model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)
    files = list(checkpoint.folder_of(tmp_path, 2).iterdir())
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert not any("base_layer" in path.read_text() for path in files if path.suffix == ".json")


def test_a_work_folder_of_another_spec_is_refused(tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    paths = {"model": tiny_llama_dir, "dataset": tiny_dataset_dir, "workdir": tmp_path}
    train_whole(tiny_spec(steps=2), **paths)
    with pytest.raises(SpecError, match="belongs to another run: its spec"):
        tiny_trainer(tiny_spec(steps=4), **paths).run()


def test_a_checkpoint_of_another_base_model_is_refused(
    tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    """The name is the same, the weights are not."""
    spec, paths = tiny_spec(steps=2), {"dataset": tiny_dataset_dir, "workdir": tmp_path / "run"}
    train_whole(spec, **paths, model=tiny_llama_dir)
    other = save_tiny_llama(tmp_path / "models" / "tiny-llama", seed=5)
    with pytest.raises(SpecError, match="belongs to another run: its base fingerprint"):
        tiny_trainer(spec, **paths, model=other).run()
