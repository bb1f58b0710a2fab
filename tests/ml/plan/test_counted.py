"""Counted work: the very operations that a real model runs, whatever the depth, and nothing for what is free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from ml.backbone import load_backbone
from ml.data.chat import Example
from ml.forward import completion_nll
from ml.methods import build
from ml.plan.counted import Pass, TrainingWork, _Counted, pass_work, training_work
from ml.plan.simulate import Setting
from ml.plan.steps import Rows
from ml.plan.work import Counting, Work
from ml.specs import METHODS
from tests.ml.running import tiny_spec
from tests.ml.tiny import SHAPES, tiny_config

ROWS = Rows(longest=40, n_shared=16, n_targets=5)


def setting(method: str = "lora", *, shape: str = "llama", rows: Rows = ROWS, labels: int = 0, **sizes: int) -> Setting:
    return Setting(
        spec=tiny_spec(method), config=tiny_config(shape, sizes), family=SHAPES[shape], device="cpu",
        dtype=torch.float32, labels=tuple(f"label {n}" for n in range(labels)), rows=rows,
    )  # fmt: skip


def counted(method: str = "lora", **changes: Any) -> TrainingWork:
    return training_work(setting(method, **changes))


def test_a_product_is_two_operations_a_weight_and_row_and_the_bytes_of_its_tensors() -> None:
    layer, x = nn.Linear(30, 20, bias=False), torch.ones(5, 30)
    with Counting() as counting, torch.no_grad():
        layer(x)
    assert counting.total == Work(flops=2 * 5 * 30 * 20, operands=4 * (5 * 30 + 30 * 20 + 5 * 20), calls=1)


def test_attention_counts_there_and_back_as_products_do() -> None:
    q, k, v = (torch.ones(2, 3, 10, 8, requires_grad=True) for _ in range(3))
    with Counting() as there:
        out = functional.scaled_dot_product_attention(q, k, v)
    assert there.total.flops == 2 * 2 * 3 * 10 * 10 * 8 * 2
    with Counting() as back:
        out.sum().backward()
    assert back.total.flops == 5 / 2 * there.total.flops


def test_views_are_free_and_a_choice_of_rows_reads_no_more_than_it_gives() -> None:
    table = torch.ones(1000, 8)
    with Counting() as counting:
        table.view(8, 1000).t()[0].expand(3, -1)
    assert counting.total == Work()
    with Counting() as counting:
        functional.embedding(torch.tensor([1, 2]), table)
    assert counting.total.moved == 2 * (2 * 8 * 4)


def test_work_adds_up_and_multiplies() -> None:
    one = Work(flops=2, operands=3, moved=4, calls=5)
    assert one + one - one * 2 == Work()


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "lora", "ia3", "full"])
def test_a_step_has_the_operations_that_it_has_on_real_tensors(method: str, tiny_llama_dir: Path) -> None:
    backbone = load_backbone(tiny_llama_dir)
    spec = tiny_spec(method)
    model = build(backbone, spec.method, spec.options, spec.seed).train()
    n = spec.micro_batch_size
    rows = [Example(ids=[1] * 16 + [2 + row] * 24, n_prompt=35) for row in range(n)]
    with Counting() as counting:
        completion_nll(model, rows)[0].sum().backward()
    planned = Setting(spec=spec, config=backbone.model.config, family="decoder", device="cpu", dtype=torch.float32,
                      labels=(), rows=ROWS)  # fmt: skip
    assert training_work(planned).step.flops == pytest.approx(counting.total.flops / n, rel=0.03)


def test_a_deep_model_is_carried_over_exactly_from_shallow_ones() -> None:
    deep = setting("lora", num_hidden_layers=7)
    whole = _Counted(deep, [7], is_served=False).training()
    carried = training_work(deep)
    assert carried.step.flops == pytest.approx(whole["step"].flops)
    assert carried.look.calls == pytest.approx(whole["look"].calls)
    assert carried.n_trained == pytest.approx(whole["n_trained"].flops)


@pytest.mark.parametrize("method", ["last_k", "output_layers"])
def test_the_layers_below_the_trained_ones_are_counted_once_and_not_in_every_step(method: str) -> None:
    few, many = (counted(method, num_hidden_layers=n) for n in (6, 12))
    assert few.step == many.step
    assert many.before.flops > 1.8 * few.before.flops
    assert counted("full", num_hidden_layers=12).before == Work()


def test_a_head_runs_the_model_once_and_then_hardly_anything() -> None:
    found = counted("head", labels=3)
    assert found.step.flops < found.before.flops / 100
    assert found.look == found.before


def test_what_rows_begin_with_together_is_counted_once_a_batch() -> None:
    alone, shared = (counted(rows=Rows(longest=40, n_shared=n, n_targets=5)) for n in (0, 30))
    assert shared.step.flops < 0.6 * alone.step.flops


def test_more_labels_cost_more_looks_and_the_same_steps() -> None:
    few, many = (counted(rows=Rows(longest=40, n_targets=3, label_tokens=(3,) * n), labels=n) for n in (2, 12))
    assert many.look.flops > 1.3 * few.look.flops
    assert many.step.flops == few.step.flops


@pytest.mark.parametrize("shape", SHAPES)
def test_every_technique_of_a_family_is_counted_for_every_shape(shape: str) -> None:
    for method in METHODS.values():
        if SHAPES[shape] in method.families:
            found = counted(method.name, shape=shape, labels=3, rows=Rows(longest=20, label_tokens=(2, 2, 2)))
            assert found.step.flops > 0
            assert found.look.flops > 0
            assert found.n_trained > 0


def test_only_encoder_decoders_write_by_themselves() -> None:
    assert counted(shape="t5").writing.flops > 0
    assert counted(shape="llama").writing == Work()


def test_a_pass_costs_by_what_it_reads_and_little_by_what_is_there() -> None:
    short, long, behind = (
        pass_work(setting("full"), Pass(n=4, n_past=past, n_new=new)) for past, new in ((0, 20), (0, 80), (60, 20))
    )
    assert 3.9 * short.flops < long.flops
    assert short.flops < behind.flops < long.flops / 2


def test_an_engine_runs_alike_what_stands_in_front_of_rows_and_what_is_a_model_of_its_own() -> None:
    one = Pass(n=4, n_past=20, n_new=1, n_kept=1)
    plain, lora, packed = (pass_work(setting(name), one) for name in ("prefix_tuning", "lora", "qlora"))
    assert plain == pass_work(setting("full"), one)
    assert lora.calls > plain.calls
    assert packed == lora
