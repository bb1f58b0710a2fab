"""A study that is killed or stopped, wherever that is, and started again finds what an undisturbed one finds."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.cli_train import STOPPED
from tests.ml.running import Recorder
from tests.ml.study.studying import Studying, outcome, read_cells

GIVEN: dict[str, Any] = {
    "techniques": ["self_consistency", "lora", "output_layers"], "seeds": [17, 18], "shares": [0.5],
    "curve_techniques": ["lora"], "n_tries": 3,
}  # fmt: skip
Told = dict[str, Any]
When = Callable[[Told], bool]


def saying(*words: str) -> When:
    """At progress that is told in these words."""
    return lambda event: event["event"] == "progress" and all(word in event["text"] for word in words)


def cell(key: str, state: str) -> When:
    return lambda event: event["event"] == "cell" and (event["key"], event["state"]) == (key, state)


@pytest.fixture(scope="module")
def calm(studying: Studying, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    workdir = tmp_path_factory.mktemp("calm") / "calm"
    studying.done(workdir, **GIVEN)
    return outcome(workdir / "out")


@pytest.fixture(autouse=True)
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is told at once and comes in the spec's order, so that a test can wait for a word."""
    monkeypatch.setattr("ml.study.runner.SAY_EVERY_S", 0)
    monkeypatch.setattr("ml.cli_study.planned", lambda *_, **__: {})


POINTS: list[When] = [
    saying("votes", "1 of 6 rows"), saying("LoRA, seed 17", "2 of 3, step 1 of 4"), saying("LoRA", "step 2 of 4"),
    saying("LoRA, seed 17: training, step 4"), saying("LoRA, seed 17: 1 of 6 rows"), cell("lora-s17", "done"),
    cell("output_layers-s17", "searching"), cell("output_layers-s18", "done"), cell("lora-s17-0.5", "training"),
]  # fmt: skip
"""In the order in which they come."""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, STOPPED)])
def test_disturbed_again_and_again_it_finds_what_a_calm_one_finds(
    number: int, code: int, studying: Studying, calm: dict[str, Any], tmp_path: Path
) -> None:
    for fatal in POINTS:
        assert studying.until(tmp_path / "work", number, fatal, **GIVEN) == code
    studying.done(tmp_path / "work", **GIVEN)
    assert outcome(tmp_path / "work" / "out") == calm


def test_what_was_done_is_not_done_again(studying: Studying, tmp_path: Path) -> None:
    given = {**GIVEN, "techniques": ["plain", "lora"], "shares": [], "seeds": [17], "curve_techniques": []}
    assert studying.until(tmp_path / "work", signal.SIGKILL, cell("lora-s17", "training"), **given) == -signal.SIGKILL
    emit = studying.done(tmp_path / "work", **given)
    assert {event["key"] for event in emit.named("cell")} == {"lora-s17"}
    assert not any("trying" in event["text"] for event in emit.named("progress"))
    again = studying.done(tmp_path / "work", **given)
    assert again.named("cell") == []
    assert again.events[-1]["metrics"] == emit.events[-1]["metrics"]
    assert again.named("progress")[-1]["done"] == 2


def test_asked_to_stop_it_says_so_and_keeps_what_is_done(studying: Studying, tmp_path: Path) -> None:
    told = Recorder()

    def emit(event: str, **values: Any) -> None:
        told(event, **values)
        if cell("lora-s17", "searching")({"event": event, **values}):
            signal.raise_signal(signal.SIGTERM)

    code, _ = studying.run(tmp_path / "work", emit=emit, **GIVEN)
    assert code == STOPPED
    assert told.events[-1] == {"event": "stopped", "step": 0}
    out = tmp_path / "work" / "out"
    assert list(read_cells(out)) == ["self_consistency-s17"]
    assert not told.named("board")[-1]["complete"]
    assert all((out / name).is_file() for name in ("board.json", "study.json", "report.html", "report.md"))


def test_a_supervisor_that_is_gone_is_no_fault_of_the_technique(
    studying: Studying, calm: dict[str, Any], tmp_path: Path
) -> None:
    """The broken pipe was kept as the reason why the technique under way had failed, for good."""
    for words in (("LoRA", "2 of 3, step 1"), ("LoRA", "1 of 6 rows")):

        def emit(event: str, *, words: tuple[str, ...] = words, **values: Any) -> None:
            if saying(*words)({"event": event, **values}):
                raise BrokenPipeError("the other end was closed")

        assert studying.run(tmp_path / "work", emit=emit, **GIVEN)[0] == STOPPED
    studying.done(tmp_path / "work", **GIVEN)
    assert outcome(tmp_path / "work" / "out") == calm


def test_an_artifact_that_a_kill_left_over_is_cleared(studying: Studying, tmp_path: Path) -> None:
    given = {"techniques": ["lora"], "seeds": [17, 18]}
    studying.until(tmp_path / "work", signal.SIGKILL, cell("lora-s18", "done"), **given)
    artifacts = tmp_path / "work" / "out" / "artifacts"
    assert len(list(artifacts.iterdir())) == 2
    studying.done(tmp_path / "work", **given)
    kept = [key for key, found in read_cells(tmp_path / "work" / "out").items() if found["artifact"]]
    assert [path.name for path in artifacts.iterdir()] == kept
    assert len(kept) == 1
