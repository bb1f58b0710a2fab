"""A tiny backbone in bf16, as most checkpoints are, with one adapter of every kind, saved as plain peft saves it, and
PEFT's own answers as oracle."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import ml.engine.batch as batch_module
from ml.artifact import artifact_id
from ml.backbone import Backbone, load_backbone
from ml.data.chat import prompt_ids
from ml.engine.engine import Engine
from ml.engine.types import Done, Event, Failed, Request, Sampling, Token
from ml.files import stamp, write_json
from ml.heads import HeadModel, save_head
from ml.methods import build
from ml.specs import METHODS
from ml.weights import save_delta
from tests.ml.tiny import save_tiny

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
    "ia3": lambda: peft.IA3Config(
        task_type=CAUSAL, target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"],
    ),
    "ia3_values": lambda: peft.IA3Config(task_type=CAUSAL, target_modules=["v_proj"], feedforward_modules=[]),
    "dora": lambda: peft.LoraConfig(
        task_type=CAUSAL, r=3, lora_alpha=6, use_dora=True, target_modules="all-linear", init_lora_weights=False
    ),
}  # fmt: skip
WEIGHTS = ("last_k", "output_layers", "full")
"""Methods that change the model's own weights."""
KINDS = ["plain", *CONFIGS, *WEIGHTS]
OWN = ["dora", *WEIGHTS]
"""Those that need a model of their own."""
HEADS = {"head_mean": "mean", "head_last": "last", "head_first": "first"}
"""Classifier heads by pooling; they answer with a label."""
BROKEN = "broken"
"""A LoRA whose values overflow: its rows fail."""
LABELS = ["red", "deep blue", "green, more or less"]
_FORMS = {"LORA": ("lora", "lora_delta"), "IA3": ("ia3", "scale")}


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
    config = model.active_peft_config
    method, form = _FORMS.get(config.peft_type, ("prompt_tuning", "prefix_kv"))
    form = "own_backbone" if getattr(config, "use_dora", False) else form
    return save_as(folder, method, form, base or base_of(backbone), model.save_pretrained)


def save_as(folder: Path, method: str, form: str, base: dict[str, str], save: Callable[[Path], Any]) -> str:
    """What `save` writes, as the artifact of a method."""
    stage = folder / "stage"
    save(stage)
    manifest = {
        "schema": 1, "method": method, "form": form, "base": base,
        "dataset": {"name": "none", "sha256": ""}, "spec": {}, "seed": 0, "versions": {}, "metrics": {},
        "files": stamp(stage),
    }  # fmt: skip
    write_json(stage / "manifest.json", manifest)
    sha = artifact_id(stage)
    stage.rename(folder / sha)
    return sha


def base_of(backbone: Backbone) -> dict[str, str]:
    return {"name": backbone.name, "fingerprint": backbone.fingerprint}


def peft_model(tiny_llama_dir: Path, kind: str, seed: int) -> Any:
    model = load_backbone(tiny_llama_dir).model
    torch.manual_seed(seed)
    model = peft.get_peft_model(model, CONFIGS[kind]()).eval()
    for name, parameter in model.named_parameters():
        if ".ia3_l." in name:
            parameter.data = torch.empty_like(parameter).uniform_(0.3, 1.7)
    return model


def retrained(tiny_llama_dir: Path, kind: str, seed: int) -> Any:
    """A model whose own weights a method has moved."""
    defaults = {field.name: field.default for field in METHODS[kind].fields}
    model = build(load_backbone(tiny_llama_dir), kind, {**defaults, "k": 1} if kind == "last_k" else defaults, seed=0)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def head_of(backbone: Backbone, pooling: str, seed: int) -> HeadModel:
    torch.manual_seed(seed)
    head = HeadModel(backbone.model, labels=LABELS, pooling=pooling)
    for tensor in (head.weight.data, head.bias.data, head.mean):
        tensor.normal_()
    head.std.uniform_(0.5, 2)
    return head.requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama", "llama", dtype=torch.bfloat16)


@dataclass(eq=False)
class Zoo:
    """Adapters by kind, and for each the model that PEFT itself makes of it."""

    folder: Path
    backbone: Backbone
    shas: dict[str, str | None]
    models: dict[str, Any]
    heads: dict[str, HeadModel]

    def logits(self, kind: str, ids: Sequence[int]) -> torch.Tensor:
        """PEFT's unpadded single-row forward: [V] after the last id."""
        given = torch.tensor([list(ids)])
        with torch.inference_mode():
            return self.models[kind](input_ids=given, attention_mask=torch.ones_like(given)).logits[0, -1]

    def labels(self, kind: str, ids: Sequence[int]) -> list[tuple[str, float]]:
        """What training's own head says: labels and probabilities, the likeliest first."""
        head, given = self.heads[kind], torch.tensor([list(ids)])
        probabilities = head(head.features(given, torch.ones_like(given))).softmax(-1)[0].tolist()
        return sorted(zip(head.labels, probabilities, strict=True), key=lambda pair: -pair[1])

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
    found = Zoo(folder, backbone, {"plain": None}, {"plain": load_backbone(tiny_llama_dir).model}, {})
    for seed, kind in enumerate(CONFIGS, start=1):
        found.models[kind] = peft_model(tiny_llama_dir, kind, seed)
        found.shas[kind] = save_adapter(folder, found.models[kind], backbone)
    base = base_of(backbone)
    for seed, kind in enumerate(WEIGHTS, start=50):
        found.models[kind] = model = retrained(tiny_llama_dir, kind, seed)
        found.shas[kind] = save_as(
            folder, kind, "own_backbone", base, lambda stage, model=model: save_delta(model, stage, backbone.name)
        )
    for seed, (kind, pooling) in enumerate(HEADS.items(), start=70):
        found.heads[kind] = head = head_of(backbone, pooling, seed)
        found.shas[kind] = save_as(
            folder, "head", "head", base, lambda stage, head=head: save_head(head, stage, backbone.name)
        )
    return found


@pytest.fixture(scope="session")
def broken_zoo(zoo: Zoo) -> Zoo:
    """The zoo, and a LoRA whose values overflow."""
    source, stage = zoo.folder / zoo.shas["lora"], zoo.folder / "stage"
    stage.mkdir()
    (stage / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    tensors = {name: tensor * 1e25 for name, tensor in load_file(source / "adapter_model.safetensors").items()}
    save_file(tensors, stage / "adapter_model.safetensors")
    write_json(stage / "manifest.json", json.loads((source / "manifest.json").read_text()) | {"files": stamp(stage)})
    zoo.shas[BROKEN] = artifact_id(stage)
    stage.rename(zoo.folder / zoo.shas[BROKEN])
    return zoo


@pytest.fixture(scope="session")
def make_engine(tiny_llama_dir: Path, zoo: Zoo) -> Callable[..., Engine]:
    def make(**changes: Any) -> Engine:
        values: dict[str, Any] = {
            "artifact_folder": lambda sha: zoo.folder / sha, "n_slots": 4, "length": 128, "prefill_tokens": 24,
            "executor": InlineExecutor(), "is_traced": False,  # test_traces has them; a start takes longer
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
    original = batch_module.sample

    def sample(rows: Any, logits: torch.Tensor) -> Any:
        seen.update({(row.request.id, len(row.answer)): logits[r].clone() for r, row in enumerate(rows)})
        return original(rows, logits)

    monkeypatch.setattr(batch_module, "sample", sample)
    return seen


TEXTS = ["Hello", "My lights went out. What should I do?", "What colour is the very very blue sky?", "A tree."]


def ids_of(zoo: Zoo, text: str) -> list[int]:
    return prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": text}])


def check_answers(zoo: Zoo, engine: Engine, seen_logits: Any, kinds: Sequence[str]) -> Outcome:
    """Rows of all `kinds` at once have the logits and tokens that PEFT gives to each."""
    prompts = {kind: ids_of(zoo, text) for kind, text in zip(kinds, itertools.cycle(TEXTS), strict=False)}
    outcome = run(engine, [request_of(zoo, kind, prompts[kind]) for kind in kinds])
    for kind, ids in prompts.items():
        answer = outcome.ids(kind)
        assert answer == zoo.greedy(kind, ids, 6, engine.stop_ids), kind
        for n in range(len(answer)):
            expected = zoo.logits(kind, [*ids, *answer[:n]])
            torch.testing.assert_close(seen_logits[kind, n], expected, atol=1e-4, rtol=0)
    return outcome
