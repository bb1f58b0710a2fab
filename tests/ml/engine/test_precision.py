"""Base models in bf16 and in four bits: the same forms, as exact as plain peft on the same base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from ml.artifact import load_adapter
from ml.backbone import load_backbone
from ml.data.chat import prompt_ids
from ml.engine.engine import Engine
from ml.errors import ArtifactError
from tests.ml.engine.conftest import KINDS, WEIGHTS, InlineExecutor, request_of, run

N = 5
WHOLE = ("last_k", "full")
"""What replaces whole weights of layers that are kept in four bits."""


def engine_of(zoo, folder: Path, **options: Any) -> Engine:
    engine = Engine(
        load_backbone(folder, **options), artifact_folder=lambda sha: zoo.folder / sha, n_slots=len(KINDS), length=128,
        prefill_tokens=24, executor=InlineExecutor(),
    )  # fmt: skip
    engine.stop_ids.clear()
    return engine


def theirs(zoo, kind: str, folder: Path, **options: Any) -> Any:
    """The adapter on the same base without the engine, as its own library loads it."""
    backbone = load_backbone(folder, **options)
    if kind == "plain":
        return backbone.model
    if kind in WEIGHTS:
        return load_adapter(backbone, zoo.folder / zoo.shas[kind])
    return PeftModel.from_pretrained(backbone.model, zoo.folder / zoo.shas[kind]).eval()


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    given = torch.tensor([ids])
    with torch.inference_mode():
        return model(input_ids=given, attention_mask=torch.ones_like(given)).logits[0, -1].float()


@pytest.fixture
def ids(zoo) -> list[int]:
    return prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": "My lights went out."}])


def test_in_bf16_every_form_is_as_near_to_float32_as_plain_peft_is(zoo, ids, tiny_llama_dir, seen_logits):
    """bf16 keeps 8 bits, and sums in another order round differently: neither side is the truth, float32 is. Twice
    the error that peft itself makes leaves room for that and for nothing else (a wrong position costs fifty times)."""
    options = {"dtype": torch.bfloat16}
    engine = engine_of(zoo, tiny_llama_dir, **options)
    outcome = run(engine, [request_of(zoo, kind, ids, max_tokens=N) for kind in KINDS])
    for kind in KINDS:
        answer, reference = outcome.ids(kind), theirs(zoo, kind, tiny_llama_dir, **options)
        ours, peft = [], []
        for n in range(N):
            truth = zoo.logits(kind, [*ids, *answer[:n]])
            ours.append(float((seen_logits[kind, n] - truth).abs().max()))
            peft.append(float((logits_of(reference, [*ids, *answer[:n]]) - truth).abs().max()))
        assert max(ours) <= 2 * max(peft), kind


def test_on_a_base_in_four_bits_every_form_has_the_logits_of_plain_peft(zoo, ids, tiny_llama_dir, seen_logits):
    """Also QLoRA's, whose base in training was the same; whole trained matrices have no place there."""
    options, kinds = {"quantization": "nf4"}, [kind for kind in KINDS if kind not in WHOLE]
    engine = engine_of(zoo, tiny_llama_dir, **options)
    outcome = run(engine, [request_of(zoo, kind, ids, max_tokens=N) for kind in KINDS])
    for kind in kinds:
        answer, reference = outcome.ids(kind), theirs(zoo, kind, tiny_llama_dir, **options)
        assert len(answer) == N
        for n in range(N):
            expected = logits_of(reference, [*ids, *answer[:n]])
            torch.testing.assert_close(seen_logits[kind, n], expected, atol=1e-4, rtol=0)
    assert float((seen_logits["plain", 0] - zoo.logits("plain", ids)).abs().max()) > 0.01, "it is not in four bits"
    for kind in WHOLE:
        assert isinstance(error := outcome.failed(kind).error, ArtifactError)
        assert "mlp.down_proj.weight of shape [32, 64]" in str(error)
