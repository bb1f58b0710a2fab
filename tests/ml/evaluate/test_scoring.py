"""Label scores and greedy answers equal what the model says about each row alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ml.backbone import Backbone, load_backbone
from ml.data.chat import completion_ids, prompt_ids
from ml.evaluate.scoring import generate_greedy, n_rows_at_once, score_labels
from ml.forward import n_common, plain
from ml.methods import build
from ml.specs import METHODS

LABELS = ["red", "green", "blue", "bluish green"]
THINGS = ["frog", "sky", "tomato that was forgotten on the boundary", "x"]
SUBJECTS = ["plain", *sorted(name for name, method in METHODS.items() if method.storage == "peft")]
"""Methods that put something beside the model; the others only change its weights, or are no language model."""


def options_of(subject: str) -> dict[str, Any]:
    return {field.name: field.default for field in METHODS[subject].fields} if subject in METHODS else {}


def loaded(folder: Path, subject: str) -> Backbone:
    """The base model as a run of `subject` loads it."""
    return load_backbone(folder, quantization="nf4" if "double_quantization" in options_of(subject) else "")


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest, tiny_llama_dir: Path) -> tuple[Backbone, Any]:
    backbone = loaded(tiny_llama_dir, request.param)
    if request.param == "plain":
        return backbone, backbone.model
    options = options_of(request.param)
    model = build(backbone, request.param, options, 3)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.2)
    return backbone, model.eval()


def prompts_of(backbone: Backbone) -> list[list[int]]:
    return [prompt_ids(backbone.tokenizer, [{"role": "user", "content": f"Colour of {t}?"}]) for t in THINGS]


@torch.no_grad()
def alone(model: Any, prompt: list[int], label: list[int]) -> float:
    logits = model(input_ids=torch.tensor([prompt + label])).logits[0, -len(label) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(label)[:, None]).sum())


def test_labels_scored_side_by_side_equal_each_label_alone(subject: tuple[Backbone, Any]) -> None:
    backbone, model = subject
    labels = [completion_ids(backbone.tokenizer, label) for label in LABELS]
    prompts = prompts_of(backbone)
    expected = torch.tensor([[alone(model, prompt, label) for label in labels] for prompt in prompts])
    assert torch.allclose(score_labels(model, prompts, labels), expected, atol=2e-4)
    assert torch.allclose(score_labels(model, prompts[:1], labels), expected[:1], atol=2e-4)


@torch.no_grad()
def test_greedy_answers_in_a_batch_equal_each_row_alone(subject: tuple[Backbone, Any]) -> None:
    backbone, model = subject
    stop = {int(backbone.tokenizer.eos_token_id)}
    prompts = prompts_of(backbone)
    for prompt, answer in zip(prompts, generate_greedy(model, prompts, max_tokens=12, stop=stop), strict=True):
        ids: list[int] = []
        while len(ids) < 12:
            token = int(model(input_ids=torch.tensor([prompt + ids])).logits[0, -1].argmax())
            if token in stop:
                break
            ids.append(token)
        assert answer == ids


def test_an_answer_ends_at_a_stop_token(tiny_llama_dir: Path) -> None:
    backbone = load_backbone(tiny_llama_dir)
    prompts = prompts_of(backbone)
    free = generate_greedy(backbone.model, prompts, max_tokens=8, stop=set())
    stop = free[0][3]
    stopped = generate_greedy(backbone.model, prompts, max_tokens=8, stop={stop})
    assert stopped[0] == free[0][: free[0].index(stop)]


@pytest.mark.parametrize("subject", SUBJECTS, indirect=True)
def test_the_plain_model_inside_an_adapter_is_untouched(
    subject: tuple[Backbone, Any], request: pytest.FixtureRequest, tiny_llama_dir: Path
) -> None:
    backbone, model = subject
    untouched = loaded(tiny_llama_dir, request.node.callspec.params["subject"]).model
    labels = [completion_ids(backbone.tokenizer, label) for label in LABELS]
    with plain(model) as inside:
        got = score_labels(inside, prompts_of(backbone), labels)
    assert torch.equal(got, score_labels(untouched, prompts_of(backbone), labels))


def test_many_labels_mean_fewer_rows_at_once(tiny_llama_dir: Path) -> None:
    model = load_backbone(tiny_llama_dir).model
    assert n_rows_at_once(model, 10, 16) == 16
    assert n_rows_at_once(model, 50_000, 16) == 2
    assert n_rows_at_once(model, 10**9, 16) == 1


@pytest.mark.parametrize(
    ("rows", "expected"), [([[1, 2, 3]], 0), ([[1, 2], [1, 2, 3]], 2), ([[1, 2], [3]], 0), ([[1], [1, 2], []], 0)]
)
def test_what_rows_have_in_common(rows: list[list[int]], expected: int) -> None:
    assert n_common(rows) == expected
