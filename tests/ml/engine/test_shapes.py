"""Forms that change layers and heads, on decoders of other shapes: biases, fused layers, Conv1D, own head widths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ml.backbone import Backbone, load_backbone
from ml.data.chat import prompt_ids
from ml.engine.engine import Engine
from ml.engine.types import Request, Sampling
from ml.heads import save_head
from ml.methods import build
from ml.specs import METHODS
from ml.weights import save_delta
from tests.ml.engine.conftest import InlineExecutor, base_of, head_of, run, save_adapter, save_as
from tests.ml.tiny import SHAPES, save_tiny

DECODERS = sorted(shape for shape, family in SHAPES.items() if family == "decoder")


@pytest.fixture(scope="module", params=DECODERS)
def folder(request, tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("shapes") / request.param, request.param)


def trained(folder: Path, method: str, **options) -> torch.nn.Module:
    """What a method builds, with its trained tensors moved."""
    defaults = {field.name: field.default for field in METHODS[method].fields}
    model = build(load_backbone(folder), method, {**defaults, **options}, seed=0)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def greedy(model: torch.nn.Module, ids: list[int], n: int) -> list[int]:
    answer: list[int] = []
    with torch.inference_mode():
        while len(answer) < n:
            answer.append(int(model(input_ids=torch.tensor([[*ids, *answer]])).logits[0, -1].argmax()))
    return answer


def engine_of(backbone: Backbone, artifacts: Path) -> Engine:
    engine = Engine(backbone, artifact_folder=lambda sha: artifacts / sha, n_slots=4, length=128, prefill_tokens=9,
                    executor=InlineExecutor())  # fmt: skip
    engine.stop_ids.clear()
    return engine


def test_scales_deltas_and_last_layers_in_one_engine_answer_as_peft_and_the_trained_model(folder, tmp_path):
    backbone = load_backbone(folder)
    models = {
        "ia3": trained(folder, "ia3"), "lora": trained(folder, "lora", rank=3), "last_k": trained(folder, "last_k", k=1)
    }  # fmt: skip
    shas = {name: save_adapter(tmp_path, models[name], backbone) for name in ("ia3", "lora")}
    shas["last_k"] = save_as(
        tmp_path, "last_k", "own_backbone", base_of(backbone), lambda f: save_delta(models["last_k"], f, backbone.name)
    )
    shas["plain"], models["plain"] = None, load_backbone(folder).model
    ids = prompt_ids(backbone.tokenizer, [{"role": "user", "content": "My lights went out."}])
    requests = [
        Request(id=name, team_id=1, prompt_ids=tuple(ids), artifact=sha, sampling=Sampling(max_tokens=5))
        for name, sha in shas.items()
    ]
    outcome = run(engine_of(backbone, tmp_path), requests)
    answers = {name: outcome.ids(name) for name in shas}
    assert answers == {name: greedy(models[name], ids, 5) for name in shas}


def test_a_head_answers_as_in_training(folder, tmp_path):
    backbone = load_backbone(folder)
    head = head_of(backbone, "mean", 4)
    sha = save_as(tmp_path, "head", "head", base_of(backbone), lambda f: save_head(head, f, backbone.name))
    ids = prompt_ids(backbone.tokenizer, [{"role": "user", "content": "What colour is the sky?"}])
    request = Request(id="r", team_id=1, prompt_ids=tuple(ids), artifact=sha, sampling=Sampling(max_tokens=1))
    done = run(engine_of(load_backbone(folder), tmp_path), [request]).done("r")
    given = torch.tensor([ids])
    expected = head(head.features(given, torch.ones_like(given))).softmax(-1)[0]
    found = {label.label: label.probability for label in done.labels}
    assert [found[label] for label in head.labels] == pytest.approx(expected.tolist(), abs=1e-4)
