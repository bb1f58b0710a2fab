"""What holds for every method of METHODS: it is found by name, its seed decides its start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ml.backbone import load_backbone
from ml.errors import SpecError
from ml.methods import build, task_type
from tests.ml.methods.building import PEFT_METHODS, Shapes, trained

DRAWN = [name for name in PEFT_METHODS if name != "ia3"]  # whose scales all start at one


@pytest.mark.parametrize("method", DRAWN)
def test_the_seed_decides_the_start(method: str, shapes: Shapes) -> None:
    starts = [trained(shapes.built("llama", method, seed)[1]) for seed in (5, 5, 6)]
    same = [all(torch.equal(starts[0][name], other[name]) for name in starts[0]) for other in starts[1:]]
    assert same == [True, False]


def test_an_unknown_method_lists_what_there_is(tiny_llama_dir: Path) -> None:
    with pytest.raises(SpecError, match="Unknown method 'magic'") as caught:
        build(load_backbone(tiny_llama_dir), "magic", {}, 0)
    assert "lora" in caught.value.hint


@pytest.mark.parametrize(("shape", "task"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS"), ("t5", "SEQ_2_SEQ_LM")])
def test_an_adapter_says_which_task_it_is_for(shape: str, task: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, "lora")
    assert task_type(backbone) == task
    assert model.active_peft_config.task_type == task
