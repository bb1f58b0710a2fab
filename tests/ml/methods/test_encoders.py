"""Encoders other than BERT: each PEFT method trains, leaves the base alone and exports, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ml.backbone import load_backbone
from ml.errors import SpecError
from tests.ml.methods.building import (
    ENCODERS,
    LABELS,
    PEFT_METHODS,
    built_on,
    forward,
    frozen_copy,
    plain_peft,
    save_encoder,
    train,
    trained,
)

WITHOUT_PREFIX = ("albert", "distilbert", "mpnet")
"""Their layers take no keys and values from outside."""
CAN = [(m, k) for m in PEFT_METHODS for k in sorted(ENCODERS) if m != "prefix_tuning" or k not in WITHOUT_PREFIX]


@pytest.mark.parametrize("kind", WITHOUT_PREFIX)
def test_an_encoder_that_takes_no_keys_and_values_says_so(kind: str, tmp_path: Path) -> None:
    backbone = load_backbone(save_encoder(tmp_path / kind, kind), labels=LABELS)
    with pytest.raises(SpecError, match=f"a {kind} model .* cannot have a trained prefix") as caught:
        built_on(backbone, "prefix_tuning")
    assert caught.value.field == "method"


@pytest.mark.parametrize(("method", "kind"), CAN)
def test_an_encoder_trains_and_exports(method: str, kind: str, tmp_path: Path) -> None:
    quantization = "nf4" if method == "qlora" else ""
    backbone = load_backbone(save_encoder(tmp_path / kind, kind), labels=LABELS, quantization=quantization)
    before = frozen_copy(backbone.model.parameters())
    model = built_on(backbone, method)
    train(model, backbone)
    assert [name for name, p in trained(model).items() if p.grad is None or not bool(p.grad.any())] == []
    assert all(torch.equal(tensor, copy) for tensor, copy in before)
    model.save_pretrained(tmp_path / "export", save_embedding_layers=False)
    fresh = load_backbone(tmp_path / kind, labels=LABELS, quantization=quantization)
    loaded = plain_peft(fresh, tmp_path / "export")
    torch.testing.assert_close(forward(loaded, fresh), forward(model, backbone), rtol=1e-5, atol=1e-5)
