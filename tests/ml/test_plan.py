"""The memory plan: exact where it counts, and advice in the words of the form."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

from ml.backbone import load_backbone
from ml.checkpoint import trainables
from ml.methods import build
from ml.plan import advice, plan
from tests.ml.running import tiny_spec

CASES = [
    ("prompt_tuning", {"n_virtual_tokens": 7}),
    ("lora", {"rank": 3}),
    ("lora", {"rank": 2, "targets": "attention"}),
]


@pytest.mark.parametrize(("method", "options"), CASES)
def test_weights_and_trainables_are_exact(method: str, options: dict[str, object], tiny_llama_dir: Path) -> None:
    spec = tiny_spec(method, options=options)
    needed = plan(spec, AutoConfig.from_pretrained(tiny_llama_dir))
    backbone = load_backbone(tiny_llama_dir)
    assert needed.weights == 4 * sum(p.numel() for p in backbone.model.parameters())
    model = build(backbone, spec.method, spec.options, spec.seed)
    n_trained = sum(p.numel() for p in trainables(model).values())
    assert (needed.trainables, needed.gradients, needed.optimizer) == (4 * n_trained, 4 * n_trained, 8 * n_trained)
    assert needed.total == sum(v for k, v in needed.as_dict().items() if k != "total")


def test_more_rows_at_once_need_more_activations(tiny_llama_dir: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_llama_dir)
    small, large = (plan(tiny_spec(micro_batch_size=n), config) for n in (1, 4))
    assert large.activations == 4 * small.activations


def test_advice_halves_the_rows_at_once(tiny_llama_dir: Path) -> None:
    spec = tiny_spec(micro_batch_size=6)
    text = advice(spec, plan(spec, AutoConfig.from_pretrained(tiny_llama_dir)), 10**9)
    assert "1.0 GB are free" in text
    assert "set rows at once to 3" in text
