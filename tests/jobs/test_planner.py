"""The planner's child: warm, alone in its thread, started anew when it dies, gone when it is not needed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.planner import Planner
from tests.jobs.processes import is_alive
from tests.ml.conftest import save_tiny_llama
from tests.ml.running import tiny_spec


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llama(folder / "tiny-llama")
    for path in (folder / "tiny-llama").glob("*.safetensors"):
        path.unlink()
    return folder


@pytest.fixture
def planner(models: Path) -> Iterator[Planner]:
    made = Planner(models, device="cpu", idle_s=600)
    made.start()
    yield made
    made.stop()


def wait_for(condition: Callable[[], Any], timeout_s: float = 180) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def ask(planner: Planner, payload: dict[str, Any], *, seconds: float = 180) -> dict[str, Any]:
    said: list[dict[str, Any]] = []
    planner.take(payload, time.time() + seconds, said.append)
    return dict(wait_for(lambda: said)[0])


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [process] if "--serve" in process.cmdline() else []
    return found


def test_it_plans_from_the_configuration_alone(planner: Planner) -> None:
    said = ask(planner, {"spec": tiny_spec("lora").as_dict(), "labels": 3})
    assert said["total"] > said["weights"] > 0
    assert said["verdict"] in ("fits", "tight", "does_not_fit")
    assert said["free"] > 0


def test_it_plans_studies_too_as_far_as_it_comes_in_a_moment_and_further_when_asked_again(planner: Planner) -> None:
    row = {"messages": [{"role": "user", "content": "What colour is ice?"}], "completion": "blue"}
    names = ["plain", "lora", "full"]
    payload = {
        "study": {"base": "tiny-llama", "dataset": "d@1", "dataset_sha256": "0", "techniques": names},
        "task": "generation", "data": {"n_rows": {"train": 9, "validation": 9, "test": 9}, "sample": [row]},
    }  # fmt: skip
    said: list[dict[str, Any]] = []
    wait_for(lambda: said.append(ask(planner, payload)) or said[-1]["n_done"] == 3)
    assert [one["n_all"] for one in said] == [3] * len(said)
    assert {one["technique"] for one in said[-1]["techniques"]} == set(names)


def test_one_warm_child_answers_all_questions_and_ends_with_the_planner(models: Path) -> None:
    planner = Planner(models, device="cpu")
    planner.start()
    spec = tiny_spec("lora").as_dict()
    totals = [ask(planner, {"spec": {**spec, "micro_batch_size": n}})["total"] for n in (1, 4)]
    assert totals[0] < totals[1]
    assert len(children()) == 1
    planner.stop()
    assert not children()


def test_a_refusal_comes_back_with_its_field_and_the_next_question_is_answered(planner: Planner) -> None:
    spec = tiny_spec("lora").as_dict()
    assert ask(planner, {"spec": {**spec, "base": "nowhere"}})["error"]["field"] == "base"
    assert ask(planner, {"spec": {**spec, "steps": 0}})["error"]["field"] == "steps"
    assert ask(planner, {"spec": spec})["total"] > 0


def test_a_child_that_was_killed_is_started_anew(planner: Planner) -> None:
    payload = {"spec": tiny_spec("lora").as_dict()}
    ask(planner, payload)
    (child,) = children()
    child.kill()
    wait_for(lambda: not is_alive(child.pid))
    said = ask(planner, payload)
    said = ask(planner, payload) if "error" in said else said
    assert said["total"] > 0


def test_an_idle_child_is_ended(models: Path) -> None:
    planner = Planner(models, device="cpu", idle_s=0.1)
    planner.start()
    ask(planner, {"spec": tiny_spec("lora").as_dict()})
    wait_for(lambda: not children())
    planner.stop()


def test_a_question_that_nobody_waits_for_is_dropped(planner: Planner) -> None:
    said: list[dict[str, Any]] = []
    planner.take({"spec": tiny_spec("lora").as_dict()}, time.time() - 1, said.append)
    ask(planner, {"spec": tiny_spec("lora").as_dict()})
    assert not said
