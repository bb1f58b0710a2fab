"""Several processes train one run together: gloo on the CPU, started by torchrun as people start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ml.artifact import WEIGHTS
from tests.ml.running import tiny_spec, train_whole

LIMIT_S = 120


def together(spec_path: Path, *, models: Path, dataset: Path, workdir: Path, n: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", "-m", "ml",
               "train", str(spec_path), "--models", str(models), "--dataset", str(dataset), "--workdir", str(workdir),
               "--device", "cpu", "--threads", "1"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def events_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def test_two_processes_train_what_one_would(tiny_models_dir: Path, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    """Batches of 5 rows, which two processes cannot divide evenly."""
    spec = tiny_spec(batch_size=5, steps=5)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.as_dict()), encoding="utf-8")
    alone = {"model": tiny_models_dir / "tiny-llama", "dataset": tiny_dataset_dir}
    train_whole(spec, **alone, workdir=tmp_path / "one")
    process = together(path, models=tiny_models_dir, dataset=tiny_dataset_dir, workdir=tmp_path / "two")
    output, errors = finish(process)
    assert process.returncode == 0, errors[-3000:]
    one, two = (load_file(tmp_path / name / "out" / WEIGHTS) for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    said = events_of(output)
    assert [e["step"] for e in said if e["event"] == "step"] == [1, 2, 3, 4, 5]
    assert len([e for e in said if e["event"] == "finished"]) == 1


def test_asked_to_stop_both_stop_after_one_checkpoint_and_go_on_later(
    tiny_models_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    spec = tiny_spec(steps=4000, eval_every=100_000, eval_rows=0, checkpoint_every=100_000)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.as_dict()), encoding="utf-8")
    process = together(path, models=tiny_models_dir, dataset=tiny_dataset_dir, workdir=tmp_path / "run")
    assert process.stdout is not None
    limit = time.monotonic() + LIMIT_S
    for line in process.stdout:
        if '"step"' in line or time.monotonic() > limit:
            break
    os.kill(process.pid, signal.SIGTERM)
    output, errors = finish(process)
    names = [e["event"] for e in events_of(output)]
    assert "checkpoint" in names, errors[-3000:]
    assert names[-1] == "stopped"
    saved = list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert len(saved) == 1
    assert not (tmp_path / "run" / "out").exists()


def test_more_processes_than_rows_a_step_are_refused(
    tiny_models_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(tiny_spec(batch_size=1).as_dict()), encoding="utf-8")
    process = together(path, models=tiny_models_dir, dataset=tiny_dataset_dir, workdir=tmp_path / "run")
    output, _ = finish(process)
    assert process.returncode != 0
    failed = [e for e in events_of(output) if e["event"] == "failed"]
    assert failed and "2 processes cannot divide 1 rows" in failed[0]["error"]["message"]
