"""Counting live bytes, on real tensors and on the meta device alike."""

from __future__ import annotations

import pytest
import torch

from ml.plan.live import LiveBytes, storage_bytes


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_storage_counts_once_until_its_last_view_is_gone(device: str) -> None:
    with LiveBytes([]) as tracker:
        whole = torch.empty(10, 10, device=device)
        part = whole[2:].t()
        assert tracker.live == 400
        del whole
        assert tracker.live == 400
        del part
        assert tracker.live == 0
    assert tracker.peak == 400


def test_what_was_there_before_counts_as_the_start_only() -> None:
    weight = torch.zeros(5)
    with LiveBytes([weight], start=storage_bytes([weight, weight.view(5)])) as tracker:
        weight.add_(1)
        assert tracker.live == 20
        product = weight * 2
    assert tracker.peak == 40
    del product


def test_marks_keep_the_highest_point_of_each_stretch() -> None:
    with LiveBytes([]) as tracker:
        tracker.mark("first")
        torch.empty(100)
        tracker.mark("second")
        torch.empty(10)
        tracker.mark("first")
        torch.empty(50)
        tracker.mark("end")
    assert tracker.marks == {"first": 400, "second": 40}
