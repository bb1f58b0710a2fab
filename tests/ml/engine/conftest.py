"""A tiny backbone with one adapter of every kind, saved as plain peft saves it, and PEFT's own answers as oracle."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import ml.engine.engine as engine_module
from ml.artifact import artifact_id
from ml.backbone import Backbone, load_backbone
from ml.engine.engine import Engine
from ml.engine.types import Done, Event, Failed, Request, Sampling, Token
from ml.files import stamp, write_json

CAUSAL = "CAUSAL_LM"
CONFIGS: dict[str, Callable[[], Any]] = {
    "prompt_tuning": lambda: peft.PromptTuningConfig(task_type=CAUSAL, num_virtual_tokens=7),
    "prompt_tuning_short": lambda: peft.PromptTuningConfig(task_type=CAUSAL, num_virtual_tokens=1),
    "p_tuning": lambda: peft.PromptEncoderConfig(
        task_type=CAUSAL, num_virtual_tokens=5, encoder_reparameterization_type="LSTM", encoder_hidden_size=16
    ),
    "prefix_tuning": lambda: peft.PrefixTuningConfig(task_type=CAUSAL, num_virtual_tokens=6),
    "lora": lambda: peft.LoraConfig(
        task_type=CAUSAL, r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False
    ),
    "lora_other": lambda: peft.LoraConfig(
        task_type=CAUSAL, r=4, lora_alpha=6, target_modules="all-linear", init_lora_weights=False
    ),
    "lora_odd": lambda: peft.LoraConfig(
        task_type=CAUSAL, r=2, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "down_proj"],
        rank_pattern={"down_proj": 6}, alpha_pattern={"layers.1.mlp.down_proj": 3}, init_lora_weights=False,
    ),
}  # fmt: skip
KINDS = ["plain", *CONFIGS]


class InlineExecutor(Executor):
    """Loads at once, in the calling thread: tests have no race to wait for."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def save_adapter(folder: Path, model: Any, backbone: Backbone, *, base: dict[str, str] | None = None) -> str:
    """`model`'s adapter as plain peft saves it, with a manifest; the folder is then renamed to its sha256."""
    stage = folder / "stage"
    model.save_pretrained(stage)
    is_lora = model.active_peft_config.peft_type == "LORA"
    manifest = {
        "schema": 1, "method": "lora" if is_lora else "prompt_tuning",
        "form": "lora_delta" if is_lora else "prefix_kv",
        "base": base or {"name": backbone.name, "fingerprint": backbone.fingerprint},
        "dataset": {"name": "none", "sha256": ""}, "spec": {}, "seed": 0, "versions": {}, "metrics": {},
        "files": stamp(stage),
    }  # fmt: skip
    write_json(stage / "manifest.json", manifest)
    sha = artifact_id(stage)
    stage.rename(folder / sha)
    return sha


def peft_model(tiny_llama_dir: Path, kind: str, seed: int) -> Any:
    model = load_backbone(tiny_llama_dir).model
    torch.manual_seed(seed)
    return peft.get_peft_model(model, CONFIGS[kind]()).eval()


@dataclass(eq=False)
class Zoo:
    """Adapters by kind, and for each the model that PEFT itself makes of it."""

    folder: Path
    backbone: Backbone
    shas: dict[str, str | None]
    models: dict[str, Any]

    def logits(self, kind: str, ids: Sequence[int]) -> torch.Tensor:
        """PEFT's unpadded single-row forward: [V] after the last id."""
        given = torch.tensor([list(ids)])
        with torch.inference_mode():
            return self.models[kind](input_ids=given, attention_mask=torch.ones_like(given)).logits[0, -1]

    def greedy(self, kind: str, ids: Sequence[int], n: int, stop_ids: set[int]) -> list[int]:
        answer: list[int] = []
        while len(answer) < n:
            token = int(self.logits(kind, [*ids, *answer]).argmax())
            if token in stop_ids:
                break
            answer.append(token)
        return answer


@pytest.fixture(scope="session")
def zoo(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    folder, backbone = tmp_path_factory.mktemp("artifacts"), load_backbone(tiny_llama_dir)
    found = Zoo(folder, backbone, {"plain": None}, {"plain": load_backbone(tiny_llama_dir).model})
    for seed, kind in enumerate(CONFIGS, start=1):
        found.models[kind] = peft_model(tiny_llama_dir, kind, seed)
        found.shas[kind] = save_adapter(folder, found.models[kind], backbone)
    return found


@pytest.fixture
def make_engine(tiny_llama_dir: Path, zoo: Zoo) -> Callable[..., Engine]:
    def make(**changes: Any) -> Engine:
        values: dict[str, Any] = {
            "artifact_folder": lambda sha: zoo.folder / sha, "n_slots": 4, "length": 128, "prefill_tokens": 24,
            "executor": InlineExecutor(),
        }  # fmt: skip
        return Engine(load_backbone(tiny_llama_dir), **{**values, **changes})

    return make


def request_of(zoo: Zoo, kind: str, ids: Sequence[int], *, name: str = "", team: int = 1, **sampling: Any) -> Request:
    return Request(
        id=name or kind, team_id=team, prompt_ids=tuple(ids), artifact=zoo.shas[kind],
        label=kind, sampling=Sampling(**{"max_tokens": 6, **sampling}),
    )  # fmt: skip


@dataclass
class Outcome:
    """What came out of the engine, by request id."""

    events: list[Event]

    def ids(self, name: str) -> list[int]:
        return [i for event in self.events if isinstance(event, Token) and event.id == name for i in event.ids]

    def done(self, name: str) -> Done:
        return next(event for event in self.events if isinstance(event, Done) and event.id == name)

    def failed(self, name: str) -> Failed:
        return next(event for event in self.events if isinstance(event, Failed) and event.id == name)

    def tokens(self, name: str) -> list[Token]:
        return [event for event in self.events if isinstance(event, Token) and event.id == name]


def run(engine: Engine, requests: Sequence[Request] = (), *, after_step: Callable[[], None] | None = None) -> Outcome:
    """Steps until nothing is left to do."""
    for request in requests:
        engine.submit(request)
    events: list[Event] = []
    for _ in range(2000):
        if engine.is_idle:
            return Outcome(events)
        events += engine.step()
        if after_step:
            after_step()
    raise AssertionError("the engine did not come to an end: " + json.dumps(engine.snapshot().rows))


@pytest.fixture
def seen_logits(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], torch.Tensor]:
    """The logits that the engine sampled from: by request and number of the answer's token."""
    seen: dict[tuple[str, int], torch.Tensor] = {}
    original = engine_module.sample

    def sample(rows: Any, logits: torch.Tensor) -> Any:
        seen.update({(row.request.id, len(row.answer)): logits[r].clone() for r, row in enumerate(rows)})
        return original(rows, logits)

    monkeypatch.setattr(engine_module, "sample", sample)
    return seen
