"""Reports: the right rows, the right metrics, the best and the worst to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.backbone import load_backbone
from ml.data.rows import read_dataset
from ml.evaluate.report import N_SAMPLES, measure


def test_classification_reports_accuracy_with_its_interval(tiny_llama_dir: Path, tiny_dataset_dir: Path) -> None:
    backbone, dataset = load_backbone(tiny_llama_dir), read_dataset(tiny_dataset_dir)
    report = measure(backbone.model, backbone.tokenizer, dataset, "test", n_rows=10, max_length=96, at_once=4)
    assert report.metrics.keys() == {"accuracy", "macro_f1", "loss"}
    low, high = report.intervals["accuracy"]
    assert low <= report.metrics["accuracy"] <= high
    assert report.n_rows == 10


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_the_report_does_not_depend_on_the_batches(
    tiny_llama_dir: Path, tiny_generation_dataset_dir: Path, at_once: int
) -> None:
    backbone, dataset = load_backbone(tiny_llama_dir), read_dataset(tiny_generation_dataset_dir)
    report = measure(backbone.model, backbone.tokenizer, dataset, "test", n_rows=6, max_length=96, at_once=at_once)
    alone = measure(backbone.model, backbone.tokenizer, dataset, "test", n_rows=6, max_length=96, at_once=2)
    assert report.metrics == pytest.approx(alone.metrics, rel=1e-4)
    assert [s["got"] for s in report.samples] == [s["got"] for s in alone.samples]


def test_samples_are_the_best_and_the_worst_rows(tiny_llama_dir: Path, tiny_dataset_dir: Path) -> None:
    backbone, dataset = load_backbone(tiny_llama_dir), read_dataset(tiny_dataset_dir)
    report = measure(backbone.model, backbone.tokenizer, dataset, "train", n_rows=30, max_length=96, at_once=8)
    assert len(report.samples) == 2 * N_SAMPLES
    wrong = [s["loss"] for s in report.samples if not s["correct"]]
    assert wrong == sorted(wrong)
    assert {s["row"] for s in report.samples} <= {row.number for row in dataset.splits["train"]}


def test_measuring_can_be_interrupted_between_batches(tiny_llama_dir: Path, tiny_dataset_dir: Path) -> None:
    backbone, dataset = load_backbone(tiny_llama_dir), read_dataset(tiny_dataset_dir)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(backbone.model, backbone.tokenizer, dataset, "test", n_rows=10, max_length=96, at_once=2, check=check)
    assert len(calls) == 2
