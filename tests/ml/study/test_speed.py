"""Work by speed: what binds it, and a machine that is probed once."""

from __future__ import annotations

import pytest
import torch

from ml.plan.work import Work
from ml.study.speed import EFFICIENCY, SCALING, Speed, speed_of

SPEED = Speed(flops=1e9, bandwidth=1e8, moved=1e7, calls=1e3)


def test_products_are_bound_by_arithmetic_or_by_bytes() -> None:
    assert SPEED.seconds(Work(flops=2e9, operands=1e8), "look") == pytest.approx(2 / EFFICIENCY["look"])
    assert SPEED.seconds(Work(flops=1e6, operands=3e8), "write") == pytest.approx(3 / EFFICIENCY["write"])


def test_other_operations_add_what_they_move() -> None:
    both = SPEED.seconds(Work(flops=1e9, moved=2e7), "train")
    assert both == pytest.approx(3 / EFFICIENCY["train"])


def test_many_small_operations_are_bound_by_how_fast_they_start() -> None:
    assert SPEED.seconds(Work(flops=1, moved=1, calls=5e3), "read") == pytest.approx(5 / EFFICIENCY["read"])


def test_a_file_of_weights_costs_more_than_moving_them() -> None:
    assert SPEED.file_s(1e7) > SPEED.seconds(Work(moved=1e7), "train")


def test_the_machine_is_probed_once_and_more_threads_are_worth_a_little_less_than_their_number() -> None:
    one = speed_of("cpu", 64)
    assert speed_of("cpu", 64) is one
    assert min(one.flops, one.bandwidth, one.moved, one.calls) > 1e3
    four = speed_of("cpu", 64, threads=4)
    assert four.flops == pytest.approx(4**SCALING * one.flops)
    assert four.calls == one.calls


def test_a_probe_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    speed_of("cpu", 72)
    assert torch.get_num_threads() == before
