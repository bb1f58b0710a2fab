"""Reports: the right rows, the right metrics, the best and the worst to look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.backbone import load_backbone
from ml.data.rows import Dataset, read_dataset
from ml.evaluate import metrics, scoring
from ml.evaluate.report import N_SAMPLES, measure
from ml.objectives import decoder
from ml.objectives.decoder import DecoderObjective
from tests.ml.conftest import save_dataset

Subject = tuple[DecoderObjective, Any, Dataset]


def subject_of(model_folder: Path, dataset_folder: Path) -> Subject:
    """(objective, model, data set) for `measure`"""
    backbone, dataset = load_backbone(model_folder), read_dataset(dataset_folder)
    objective = DecoderObjective(tokenizer=backbone.tokenizer, labels=dataset.labels, max_length=96)
    return objective, backbone.model, dataset


@pytest.fixture
def labelling(tiny_llama_dir: Path, tiny_dataset_dir: Path) -> Subject:
    return subject_of(tiny_llama_dir, tiny_dataset_dir)


@pytest.fixture
def writing(tiny_llama_dir: Path, tiny_generation_dataset_dir: Path) -> Subject:
    return subject_of(tiny_llama_dir, tiny_generation_dataset_dir)


def test_classification_reports_shares_with_their_intervals(labelling: Subject) -> None:
    report = measure(*labelling, "test", n_rows=10)
    assert report.metrics.keys() == {"accuracy", "macro_f1", "loss"}
    assert report.intervals.keys() == {"accuracy", "macro_f1"}
    for name, (low, high) in report.intervals.items():
        assert low <= report.metrics[name] <= high
    assert report.n_rows == 10


def test_where_scoring_labels_is_dear_a_look_is_at_the_right_one_alone(
    labelling: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, whole = measure(*labelling, "test", n_rows=10, writes=False), measure(*labelling, "test", n_rows=10)
    assert few.metrics == whole.metrics, "a few labels are scored all the same"
    objective, model, dataset = labelling
    monkeypatch.setattr(scoring, "MOST_SCORED", sum(objective.label_lengths()) - 1)
    monkeypatch.setattr(objective, "label_scores", lambda *_: pytest.fail("scored"))
    seen = measure(*labelling, "test", n_rows=10, writes=False).metrics
    assert seen.keys() == {"loss", "perplexity"}
    lengths = objective.label_lengths()
    n = [lengths[dataset.labels.index(row.completion)] for row in dataset.splits["test"][:10]]
    losses = [loss for _, loss in objective.answers(model, dataset.splits["test"][:10], lambda: None, writes=False)]
    assert seen["loss"] == pytest.approx(metrics.token_mean(losses, n))


def test_a_classifiers_labels_cost_one_prediction_however_many() -> None:
    assert scoring.is_cheap([1] * 10_000)
    assert scoring.is_cheap([scoring.MOST_SCORED]) and not scoring.is_cheap([2] * scoring.MOST_SCORED)


def test_generation_reports_overlaps_with_their_intervals(writing: Subject) -> None:
    report = measure(*writing, "test", n_rows=6)
    shares = {"exact_match", "token_f1", "rouge_l", "bleu", "chrf"}
    assert report.metrics.keys() == {*shares, "loss", "perplexity"}
    assert report.intervals.keys() == shares
    for name, (low, high) in report.intervals.items():
        assert 0 <= low <= report.metrics[name] <= high <= 1


def test_every_right_answer_of_a_row_counts(writing: Subject) -> None:
    objective, model, dataset = writing
    given = [text for text, _ in objective.answers(model, dataset.splits["test"][:4], lambda: None)]
    rows = [replace(row, answers=(row.completion, text or row.completion))
            for row, text in zip(dataset.splits["test"], given, strict=False)]  # fmt: skip
    report = measure(objective, model, replace(dataset, splits={"test": rows}), "test", n_rows=4)
    wanted = sum(bool(metrics.normalized(text)) for text in given) / 4
    assert report.metrics["exact_match"] >= wanted > 0


def test_the_loss_of_free_answers_is_a_mean_over_tokens(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """A mean of the rows' means let a one-word answer weigh as much as a page, and was not what training lowers."""
    words = ["Red.", "A rose that grows in the garden of a neighbour is red, and so is the tomato."]
    message = {"role": "user", "content": "Say a thing."}
    rows = [{"row": i, "messages": [message], "completion": text} for i, text in enumerate(words)]
    folder = save_dataset(tmp_path / "words", {"train": rows, "test": rows}, task="generation", labels=None)
    objective, model, dataset = subject_of(tiny_llama_dir, folder)
    report = measure(objective, model, dataset, "test", n_rows=2)
    with torch.no_grad():
        nll = objective.nll(model.eval(), objective.encode(dataset.splits["test"]))
    assert report.metrics["loss"] == pytest.approx(float(nll.mean()), rel=1e-5)
    assert report.metrics["perplexity"] == pytest.approx(metrics.perplexity(float(nll.mean())), rel=1e-4)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_the_report_does_not_depend_on_the_batches(
    writing: Subject, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    together = measure(*writing, "test", n_rows=6)
    monkeypatch.setattr(decoder, "ROWS_AT_ONCE", at_once)
    apart = measure(*writing, "test", n_rows=6)
    assert apart.metrics == pytest.approx(together.metrics, rel=1e-4)
    assert [s["got"] for s in apart.samples] == [s["got"] for s in together.samples]


def test_samples_are_the_best_and_the_worst_rows(labelling: Subject) -> None:
    report = measure(*labelling, "train", n_rows=30)
    assert len(report.samples) == 2 * N_SAMPLES
    wrong = [s["loss"] for s in report.samples if not s["correct"]]
    assert wrong == sorted(wrong)
    assert {s["row"] for s in report.samples} <= {row.number for row in labelling[2].splits["train"]}


def test_measuring_can_be_interrupted_between_batches(labelling: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "ROWS_AT_ONCE", 2)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(*labelling, "test", n_rows=10, check=check)
    assert len(calls) == 2
