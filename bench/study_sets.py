"""The data sets of `bench/study.py`: which rows, which sizes, and what others published on them.

Rows are the first ones in the order of a hash of their prompts, of each label in turn: a fixed draw. The sizes are such
that a set takes about three quarters of an hour of two cores with the starter model; `FULL` is for a GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml.data.sniff import sniff
from ml.data.version import Recipe, build_version
from ml.specs.study import TECHNIQUES, why_not_studied


@dataclass(frozen=True, kw_only=True)
class Set:
    name: str
    task: str
    spec: Mapping[str, Any]
    """Of the study: metric, sizes, seeds; everything else is the default."""
    leaves_out: tuple[str, ...] = ()
    has_documents: bool = False
    """The folder has corpus.jsonl, which retrieval searches, and queries.jsonl instead of a file for each split."""
    published: str
    differs: str
    full: Mapping[str, Any] = field(default_factory=dict)
    """What is different where a GPU does it."""

    @property
    def techniques(self) -> list[str]:
        """All that apply, but those that are left out; retrieval where there are documents to search."""
        fits = (name for name in TECHNIQUES if not why_not_studied(name, task=self.task, family="decoder"))
        needing = (n for n, one in TECHNIQUES.items() if one.needs_collection and not self.has_documents)
        without = (*self.leaves_out, *needing)
        return [name for name in fits if name not in without]


_FULL = {"steps": 400, "n_tries": 5, "seeds": [17, 18, 19], "shares": [0.1, 0.3], "train_rows": 0, "valid_rows": 200}
SETS = (
    Set(
        name="snips7",
        task="classification",
        spec={"metric": "accuracy", "steps": 40, "batch_size": 16, "train_rows": 640, "valid_rows": 70,
              "test_rows": 140, "seeds": [17], "shares": [0.1, 0.3],
              "curve_techniques": ["head", "lora"], "max_tokens": 96},
        published="slot-gated model 97.0, joint BERT 98.6 (accuracy)",
        differs="Published with all 13,700 training rows, models trained whole, many epochs, all 700 test rows.",
        full={**_FULL, "test_rows": 695, "curve_techniques": []},
    ),
    Set(
        name="banking77",
        task="classification",
        spec={"metric": "accuracy", "steps": 24, "batch_size": 16, "train_rows": 1540, "valid_rows": 30,
              "test_rows": 154, "seeds": [17], "shares": [0.3], "curve_techniques": ["head"],
              "max_tokens": 96},
        published="BERT-fixed 87.2, USE+ConveRT 93.4, BERT-tuned 93.7; with 10 rows a label USE+ConveRT 85.2 "
        "(accuracy; Casanueva et al. 2020)",
        differs="Published with all 10,003 training rows and all 3,080 test rows, many epochs.",
        full={**_FULL, "test_rows": 1540, "curve_techniques": []},
    ),
    Set(
        name="e2e_nlg",
        task="generation",
        spec={"metric": "bleu", "steps": 24, "batch_size": 16, "train_rows": 384, "valid_rows": 40, "test_rows": 60,
              "seeds": [17], "shares": [0.3], "curve_techniques": ["lora"], "max_tokens": 64},
        leaves_out=("self_consistency", "chain_of_thought"),
        published="GPT-2 M (355M): full 68.2, adapter 66.3–68.9, last two layers 68.1, prefix-tuning 69.7, LoRA 70.4; "
        "GPT-2 L: full 68.5, prefix-tuning 70.3, LoRA 70.4; TGen 65.9 (BLEU; Li and Liang 2021, Hu et al. 2021)",
        differs="Published with 42,061 training rows, five epochs, beam search, e2e-metrics' BLEU against *all* "
        "references of each of 630 inputs. Here BLEU is sacrebleu's against *one* reference of each, greedy decoding: "
        "figures are far lower by construction and compare with each other only.",
        full={**_FULL, "test_rows": 630, "curve_techniques": []},
    ),
    Set(
        name="gsm8k",
        task="generation",
        spec={"metric": "numeric", "steps": 12, "batch_size": 8, "n_tries": 2, "train_rows": 96, "valid_rows": 16,
              "test_rows": 40, "seeds": [17], "n_examples": 4, "max_tokens": 128},
        published="GPT-3 6B trained 20–22, GPT-3 175B trained 33–35 (Cobbe et al. 2021); PaLM 540B with chain of "
        "thought 56.9; SmolLM2-135M-Instruct with 5 examples 1.4 (its model card)",
        differs="A model of 135 million parameters hardly solves any of these problems: the right answers are too few "
        "to tell techniques apart, which is the finding. Token F1 says more.",
        full={**_FULL, "test_rows": 600, "max_tokens": 256},
    ),
    Set(
        name="squad_rag",
        task="question_answering",
        has_documents=True,
        spec={"metric": "token_f1", "steps": 24, "batch_size": 16, "train_rows": 240, "valid_rows": 40,
              "test_rows": 100, "seeds": [17], "max_tokens": 48},
        published="BERT-base 88.5, human 91.2 (token F1 on SQuAD v1.1, each question with its paragraph)",
        differs="Published with the right paragraph given. Here it has to be found: training rows are of other "
        "articles than test rows, so that no answer can be learnt, and retrieval searches all 240 paragraphs.",
        full={**_FULL, "test_rows": 800, "curve_techniques": []},
    ),
)  # fmt: skip


def raw_rows(path: Path, n_rows: int) -> Iterator[dict[str, Any]]:
    """The first `n_rows` rows of a JSONL file by the hash of their prompts, the labels, if there are any, in turn."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows.sort(key=lambda row: hashlib.sha256(row["prompt"].encode()).hexdigest())
    seen: Counter[str] = Counter()
    places = []
    for place, row in enumerate(rows):
        places.append((seen[row.get("label", "")], place))
        seen[row.get("label", "")] += 1
    has_labels = len(seen) <= len(rows) // 2
    ordered = sorted(places) if has_labels else list(enumerate(range(len(rows))))
    return ({"prompt": rows[place]["prompt"], "completion": rows[place]["completion"]}
            for _, place in ordered[: n_rows or None])  # fmt: skip


def _questions(folder: Path, split: str, spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of queries.jsonl by the hash of the question: those to tune on are training and validation rows."""
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: hashlib.sha256(row["query"].encode()).hexdigest())
    n_valid, n_train = int(spec["valid_rows"]), int(spec["train_rows"])
    to_tune_on = [row for row in rows if row["split"] == "valid"]
    chosen = {
        "train": to_tune_on[n_valid:][: n_train or None], "validation": to_tune_on[:n_valid],
        "test": [row for row in rows if row["split"] == "test"][: int(spec["test_rows"])],
    }  # fmt: skip
    return ({"prompt": row["query"], "completion": row["answer"]} for row in chosen[split])


def make_folder(study: Set, spec: Mapping[str, Any], data: Path, into: Path) -> tuple[Path, str]:
    """The data set folder under `into`, made anew, and its sha256."""
    into.mkdir(parents=True, exist_ok=True)
    chosen = {"train": ("train", spec["train_rows"]), "validation": ("valid", spec["valid_rows"]),
              "test": ("test", spec["test_rows"])}  # fmt: skip
    lines = [
        json.dumps({**row, "split": split}, ensure_ascii=False)
        for split, (file, n_rows) in chosen.items()
        for row in (
            _questions(data / study.name, split, spec) if study.has_documents
            else raw_rows(data / study.name / f"{file}.jsonl", n_rows)
        )
    ]  # fmt: skip
    upload = into / f"{study.name}.jsonl"
    upload.write_text("\n".join(lines) + "\n", encoding="utf-8")
    mapping = {"task": study.task, "prompt": "{prompt}", "completion": "{completion}"}
    recipe = Recipe(mapping=mapping, splits={"kind": "column", "column": "split"})
    report = build_version(sniff(upload, upload.name), recipe, into / study.name)
    return into / study.name, str(report["sha256"])
