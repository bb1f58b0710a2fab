"""The study of every technique: groups of equals, figures for people, and what people wrote is kept."""

from __future__ import annotations

from typing import Any

from bench.method_sets import STUDIES
from bench.methods_table import KEPT, document, figure, groups, n_bytes, table

STUDY = STUDIES[0]
ABOUT = {
    "command": "python bench/methods.py", "commit": "abc", "base": "tiny", "fingerprint": "f" * 64,
    "precision": "float32", "seed": 17, "rates": "Defaults.", "load": "0.1 to 0.2", "versions": {"python": "3.11"},
    "machine": {"cores": 2, "processor": "a processor", "memory_bytes": 24e9},
}  # fmt: skip


def result(label: str, accuracy: float, low: float, high: float, **changes: Any) -> dict[str, Any]:
    measured = {
        "metrics": {"accuracy": accuracy, "macro_f1": 0.5, "loss": 0.25},
        "intervals": {"accuracy": [low, high]},
    }
    settings = {"set": STUDY.name, "learning_rate": 1e-3, "steps": 60, "batch_size": 8, "n_train": 480, "n_test": 150}
    cost = {"n_trainable": 11520, "artifact_bytes": 46_000, "train_s": 90.4, "step_s": 1.5,
            "train_peak_bytes": 1.9e9, "planned_bytes": 2e9}  # fmt: skip
    return {"label": label, **measured, **settings, **cost, **changes}


def test_those_whose_interval_reaches_the_best_share_its_group() -> None:
    close, worse, best = result("b", 0.9, 0.84, 0.94), result("c", 0.8, 0.73, 0.86), result("a", 0.95, 0.91, 0.97)
    assert [(n, r["label"]) for n, r in groups([close, worse, best], "accuracy")] == [(1, "a"), (1, "b"), (2, "c")]


def test_a_group_is_judged_by_its_best_so_that_it_does_not_creep() -> None:
    """Each overlaps the next, the last not the first: a chain of neighbours is no group."""
    chain = [result("a", 0.9, 0.8, 1.0), result("b", 0.8, 0.7, 0.9), result("c", 0.7, 0.6, 0.79)]
    assert [n for n, _ in groups(chain, "accuracy")] == [1, 1, 2]


def test_the_plain_model_stands_in_the_table_once() -> None:
    plain = {"metrics": {"accuracy": 0.15, "macro_f1": 0.07, "loss": 2.5}, "intervals": {"accuracy": [0.1, 0.2]}}
    lines = table(
        STUDY, [result("a", 0.9, 0.8, 1.0, plain=plain), result("b", 0.8, 0.7, 0.9, plain=plain)]
    ).splitlines()
    assert lines[2].startswith("| 1 | a | 0.001 | 60 × 8 | 90.0 | 80.0–100.0 | 50.0 | 0.25 | 11,520 | 46 kB | 90 s |")
    assert lines[4].startswith("| 2 | *plain model* | – | – | 15.0 | 10.0–20.0 |")
    assert len({line.count("|") for line in lines}) == 1


def test_a_run_that_failed_is_told() -> None:
    failed = {"label": "Full fine-tuning", "set": STUDY.name, "error": "There is not enough memory."}
    assert table(STUDY, [failed]).endswith("- Full fine-tuning failed: There is not enough memory.")


def test_what_people_wrote_outlives_a_new_run() -> None:
    first = document(studies=STUDIES, results=[result("a", 0.9, 0.8, 1.0)], about=ABOUT, before="")
    assert KEPT not in first
    again = document(
        studies=STUDIES, results=[result("b", 0.9, 0.8, 1.0)], about=ABOUT, before=f"{first}{KEPT}\nLoRA.\n"
    )
    assert again.endswith(f"{KEPT}\nLoRA.\n")
    assert "| a |" not in again


def test_figures_are_short() -> None:
    assert [figure("bleu", 0.4567), figure("loss", 1.23456), figure("loss", None)] == ["45.7", "1.23", "–"]
    assert [n_bytes(46_080), n_bytes(9.8e6), n_bytes(1.9e9), n_bytes(12), n_bytes(None)] == [
        "46.1 kB", "9.8 MB", "1.9 GB", "12 B", "–",
    ]  # fmt: skip
