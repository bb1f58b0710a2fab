"""`python -m ml`: verbs, exit statuses, and nothing but JSON lines on standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.__main__ import VERBS, main
from tests.ml.running import Recorder, tiny_spec

Train = Callable[..., tuple[int, Recorder]]


@pytest.fixture
def train(tiny_models_dir: Path, tiny_dataset_dir: Path, tmp_path: Path) -> Train:
    """Runs the verb `train` in this process on a spec with changes."""

    def call(given: Any = None, *, dataset: Path = tiny_dataset_dir, **changes: Any) -> tuple[int, Recorder]:
        spec = tmp_path / "spec.json"
        values = {**tiny_spec(steps=2).as_dict(), **changes} if given is None else given
        spec.write_text(values if isinstance(values, str) else json.dumps(values))
        emit: Any = Recorder()
        words = ["train", str(spec), "--models", str(tiny_models_dir), "--dataset", str(dataset)]
        code = main([*words, "--workdir", str(tmp_path / "run"), "--device", "cpu"], emit=emit)
        return code, emit

    return call


def failure(emit: Recorder) -> dict[str, Any]:
    assert [event["event"] for event in emit.events][-1] == "failed"
    return dict(emit.events[-1]["error"])


def test_a_whole_run_ends_in_zero_and_is_found_again(train: Train, tmp_path: Path) -> None:
    code, emit = train()
    assert (code, emit.events[-1]["event"]) == (0, "finished")
    assert emit.events[-1]["out"] == str(tmp_path / "run" / "out")
    code, again = train()
    assert (code, [e["event"] for e in again.events]) == (0, ["finished"])
    assert again.events[-1]["metrics"] == emit.events[-1]["metrics"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"colour": "blue"}, "colour"),
        ({"options": {"rank": 0}}, "rank"),
        ({"options": {"depth": 3}}, "depth"),
        ({"method": "magic"}, "method"),
    ],
)
def test_a_bad_spec_exits_64_and_names_the_field(train: Train, changes: dict[str, Any], field: str) -> None:
    code, emit = train(**changes)
    assert (code, failure(emit)["field"]) == (64, field)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_spec_that_is_not_an_object_exits_64(train: Train, text: str) -> None:
    code, emit = train(text)
    assert (code, failure(emit)["code"]) == (64, "invalid_spec")


@pytest.mark.parametrize("base", ["../models/tiny-llama", "/etc", "missing"])
def test_a_base_outside_the_models_folder_or_missing_exits_69(train: Train, base: str) -> None:
    code, emit = train(base=base)
    assert (code, failure(emit)["field"]) == (69, "base")


def test_bad_data_exits_65(train: Train, tmp_path: Path) -> None:
    code, emit = train(dataset=tmp_path)
    assert (code, failure(emit)["code"]) == (65, "invalid_data")


def test_a_loss_that_is_not_a_number_exits_72(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.train.Trainer._accumulate", lambda *_: float("inf"))
    code, emit = train()
    assert (code, failure(emit)["code"]) == (72, "diverged")


def test_no_memory_exits_71(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> float:
        raise MemoryError

    monkeypatch.setattr("ml.train.Trainer._accumulate", fail)
    code, emit = train()
    assert (code, failure(emit)["code"]) == (71, "out_of_memory")
    assert "rows at once" in failure(emit)["hint"]


def test_something_unexpected_exits_70_and_may_be_tried_again(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.train.Trainer._accumulate", lambda *_: 1 / 0)
    code, emit = train()
    assert (code, failure(emit)["permanent"]) == (70, False)


def test_evaluate_measures_an_adapter_and_the_plain_model(
    train: Train, tiny_models_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    _, trained = train()
    words = ["evaluate", "--models", str(tiny_models_dir), "--base", "tiny-llama", "--dataset", str(tiny_dataset_dir)]
    adapter: Any = Recorder()
    assert main([*words, "--rows", "4", "--adapter", str(tmp_path / "run" / "out")], emit=adapter) == 0
    plain: Any = Recorder()
    assert main([*words, "--rows", "4"], emit=plain) == 0
    tests = {e["subject"]: e["metrics"] for e in trained.named("eval") if e["split"] == "test"}
    assert adapter.named("eval")[0]["metrics"] == pytest.approx(tests["adapter"], rel=1e-5)
    assert plain.named("eval")[0]["metrics"] == pytest.approx(tests["plain"], rel=1e-5)


def test_inspect_names_the_damaged_file(train: Train, tmp_path: Path) -> None:
    train()
    emit: Any = Recorder()
    assert main(["inspect", str(tmp_path / "run" / "out")], emit=emit) == 0
    assert emit.named("artifact")[0]["form"] == "lora_delta"
    (tmp_path / "run" / "out" / "README.md").write_text("other")
    assert main(["inspect", str(tmp_path / "run" / "out")], emit=emit) == 65
    assert "README.md" in failure(emit)["message"]


@pytest.mark.parametrize("words", [[], ["dance"], ["train"], ["train", "--nonsense"]])
def test_bad_arguments_exit_64(words: list[str]) -> None:
    try:
        code = main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 64


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


def test_a_process_does_not_speak_of_kernels_that_nobody_asked_for(tmp_path: Path) -> None:
    """peft imports bitsandbytes, which warned on every start that it could not fetch a CPU kernel."""
    done = subprocess.run(
        [sys.executable, "-m", "ml", "evaluate", "--models", str(tmp_path), "--dataset", str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 65
    assert "kernels" not in done.stderr


def test_sigterm_writes_a_checkpoint_and_exits_75_and_the_same_command_goes_on(
    tiny_models_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    """The real thing: a process of its own, whose standard output carries JSON lines only."""
    spec = tmp_path / "spec.json"
    spec.write_text(
        json.dumps(tiny_spec(steps=150, batch_size=1, checkpoint_every=1000, eval_every=1000, eval_rows=0).as_dict())
    )
    command = [sys.executable, "-m", "ml", "train", str(spec), "--models", str(tiny_models_dir), "--threads", "1"]
    command += ["--dataset", str(tiny_dataset_dir), "--workdir", str(tmp_path / "run"), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        events = []
        for line in child.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "step" and events[-1]["step"] == 3:
                os.kill(child.pid, signal.SIGTERM)
        assert child.wait(60) == 75
    assert [event["event"] for event in events[-2:]] == ["checkpoint", "stopped"]
    stopped = events[-1]["step"]
    assert 3 <= stopped < 150
    emit: Any = Recorder()
    assert main([*command[3:]], emit=emit) == 0
    assert emit.named("step")[0]["step"] == stopped + 1
