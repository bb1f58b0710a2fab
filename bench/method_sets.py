"""The data sets of `bench/methods.py`: which rows, how many steps, and what others published on them.

A folder is made with `ml.data`, as an upload would be, from the raw files in `../shared/data`. The rows are the first
ones in the order of a hash of their prompts, as many of each label: a fixed random draw. There are no validation rows,
so nothing is chosen by looking: the last step counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml.data.sniff import sniff
from ml.data.version import Recipe, build_version


@dataclass(frozen=True, kw_only=True)
class Study:
    """One data set at one size."""

    name: str
    task: str
    steps: int
    batch_size: int
    n_test: int
    headline: str
    """The metric that orders the table and whose intervals make its groups."""
    shown: tuple[str, ...]
    """Further metrics, in columns of their own."""
    published: str
    differs: str
    measured_on: str = "test"
    """The raw file whose rows are measured; `valid` while settings are chosen."""

    @property
    def n_train(self) -> int:
        """Rows to learn from: as many as the steps see once."""
        return self.steps * self.batch_size

    def quick(self) -> Study:
        return replace(self, steps=2, batch_size=4, n_test=7)


STUDIES = (
    Study(
        name="snips7",
        task="classification",
        steps=60,
        batch_size=8,
        n_test=105,
        headline="accuracy",
        shown=("macro_f1", "loss"),
        published="slot-gated model 97.0, joint BERT 98.6 (accuracy)",
        differs="Published with all 13,700 training rows, models trained whole, many epochs, all 700 test rows.",
    ),
    Study(
        name="e2e_nlg",
        task="generation",
        steps=24,
        batch_size=8,
        n_test=24,
        headline="bleu",
        shown=("chrf", "rouge_l", "loss", "perplexity"),
        published="GPT-2 M (355M): full 68.2, adapter 66.3–68.9, last two layers 68.1, prefix-tuning 69.7, LoRA 70.4; "
        "GPT-2 L: full 68.5, prefix-tuning 70.3, LoRA 70.4; TGen 65.9 (BLEU; Li and Liang 2021, Hu et al. 2021)",
        differs="Published with 42,061 training rows, five epochs, beam search, e2e-metrics' BLEU against *all* "
        "references of each of 630 inputs. Here BLEU is sacrebleu's against *one* reference of each, greedy decoding: "
        "figures are far lower by construction and compare with each other only.",
    ),
)


def raw_rows(path: Path, n_rows: int) -> Iterator[dict[str, Any]]:
    """The first `n_rows` rows of a JSONL file by the hash of their prompts, the labels, if there are any, in turn."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows.sort(key=lambda row: hashlib.sha256(row["prompt"].encode()).hexdigest())
    seen: Counter[str] = Counter()
    places = []
    for place, row in enumerate(rows):
        places.append((seen[row.get("label", "")], place))
        seen[row.get("label", "")] += 1
    chosen = [rows[place] for _, place in sorted(places)[:n_rows]]
    return ({"prompt": row["prompt"], "completion": row["completion"]} for row in chosen)


def make_folder(study: Study, data: Path, into: Path) -> tuple[Path, str]:
    """The data set folder under `into`, made anew, and its sha256."""
    into.mkdir(parents=True, exist_ok=True)
    chosen = {"train": ("train", study.n_train), "test": (study.measured_on, study.n_test)}
    lines = [
        json.dumps({**row, "split": split}, ensure_ascii=False)
        for split, (file, n_rows) in chosen.items()
        for row in raw_rows(data / study.name / f"{file}.jsonl", n_rows)
    ]
    upload = into / f"{study.name}.jsonl"
    upload.write_text("\n".join(lines) + "\n", encoding="utf-8")
    mapping = {"task": study.task, "prompt": "{prompt}", "completion": "{completion}"}
    recipe = Recipe(mapping=mapping, splits={"kind": "column", "column": "split"})
    report = build_version(sniff(upload, upload.name), recipe, into / study.name)
    return into / study.name, str(report["sha256"])
