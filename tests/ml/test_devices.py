"""Which device and numbers are taken when nobody says, and what is said when a device is not there."""

from __future__ import annotations

import pytest
import torch

from ml.devices import device_named, dtype_on
from ml.errors import SpecError


@pytest.mark.parametrize(("has_gpu", "found"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_where_there_is_one(has_gpu, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert device_named("auto") == found
    assert device_named("cpu") == "cpu"


def test_a_gpu_that_is_not_there_is_refused_with_advice(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="no CUDA device") as refused:
        device_named("cuda")
    assert "cpu or auto" in refused.value.hint


@pytest.mark.parametrize(("has_bf16", "found"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_computes_in_bfloat16_where_it_has_it(has_bf16, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert dtype_on("cuda") == found
    assert dtype_on("cpu") == torch.float32
