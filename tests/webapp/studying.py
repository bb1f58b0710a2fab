"""Studies for web and job tests: a small data set in the storage, and results as a study's child leaves them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.study import prepare_study
from ml.specs.study import TECHNIQUES
from webapp import storage
from webapp.models import Dataset, DatasetVersion, Run, Study, Team
from webapp.services.studies import study_publish, study_submit

LABELS = ["billing", "moving", "outage"]
N_TEST = 12
GIVEN: Mapping[str, Any] = {"base": "tiny", "techniques": ["plain", "zero_shot", "lora"], "n_tries": 1}


def data_version(
    team: Team, folder: Path, *, name: str = "tickets", number: int = 1, task: str = "classification",
    labels: Sequence[str] = tuple(LABELS), n_valid: int = 4, n_test: int = N_TEST,
) -> DatasetVersion:  # fmt: skip
    """Six training rows, then validation and test rows; the labels take turns."""
    folder = folder / f"{name}{number}"
    folder.mkdir(parents=True)
    sizes, n = {"train": 6, "validation": n_valid, "test": n_test}, 0
    for split, size in sizes.items():
        rows = [_row(n + i, task, labels) for i in range(1, size + 1)]
        n += size
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sha256 = hashlib.sha256(f"{team.pk}{name}{number}{task}".encode()).hexdigest()
    mapping = {"format": "columns", "prompt": "Message: {text}"}
    about = {"schema": 1, "task": task, "labels": list(labels) if task == "classification" else None, "splits": sizes,
             "columns": ["text", "label"], "mapping": mapping, "sha256": sha256}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(about))
    storage.put_folder(folder, f"datasets/{sha256}")
    dataset, _ = Dataset.objects.get_or_create(team=team, name=name)
    return DatasetVersion.objects.create(
        team=team, dataset=dataset, number=number, sha256=sha256, task=task, splits=sizes,
        labels=list(labels) if task == "classification" else None,
        mapping=mapping,
    )  # fmt: skip


def _row(n: int, task: str, labels: Sequence[str]) -> dict[str, Any]:
    expected = labels[n % len(labels)] if task == "classification" else f"text {n}"
    messages = [{"role": "user", "content": f"Message: ticket number {n}"}]
    return {"row": n, "messages": messages, "completion": expected}


def submitted(team: Team, user: Any, version: DatasetVersion, **given: Any) -> Study:
    return study_submit(
        team=team, user=user, name="Which one?", dataset_version_id=version.pk, given={**GIVEN, **given}
    )


def write_out(
    out: Path, study: Study, right: Mapping[str, int], *, failed: Sequence[str] = (), left_out: Sequence[str] = (),
    from_the_end: Sequence[str] = (), without_weights: Sequence[str] = (),
) -> Path:  # fmt: skip
    """As the child leaves it. `right`: by key how many of the first rows are right, or of the last ones for keys in
    `from_the_end`."""
    for name in ("cells", "rows", "artifacts"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for key, n_right in right.items():
        lines = _lines(study, n_right, is_from_end=key in from_the_end)
        (out / "rows" / f"{key}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        _write(out / "cells" / f"{key}.json", _done(study, key, n_right / len(lines), out, key not in without_weights))
    for key in failed:
        error = {"code": "out_of_memory", "message": "It needs 9 GB.", "hint": "Fewer rows at once."}
        _write(out / "cells" / f"{key}.json", {**_cell(key), "state": "failed", "error": error})
    for key in left_out:
        _write(out / "cells" / f"{key}.json", {**_cell(key), "state": "left_out", "reason": "No budget was left."})
    about = {"task": study.dataset_version.task, "versions": {"torch": "2.9.0"}, "machine": {"device": "cpu"},
             "base_fingerprint": "b" * 64, "command": "python -m ml study", "seconds": 90.0}  # fmt: skip
    _write(out / "study.json", {"spec": study.spec, **about})
    _write(out / "board.json", board(study, right, n_failed=len(failed), n_left_out=len(left_out)))
    for ending in ("html", "md", "csv"):
        (out / f"report.{ending}").write_text("<p>report</p>")
    return out


def _cell(key: str) -> dict[str, Any]:
    name, _, rest = key.rpartition("-s")
    seed, _, share = rest.partition("-")
    row = TECHNIQUES[name]
    return {"key": key, "technique": name, "label": row.label, "glyph": row.glyph, "kind": row.kind,
            "seed": int(seed), "share": float(share or 1), "reason": "", "error": None, "n_train_rows": 6,
            "identity": hashlib.sha256(key.encode()).hexdigest()}  # fmt: skip


def _lines(study: Study, n_right: int, *, is_from_end: bool) -> list[dict[str, Any]]:
    version, lines = study.dataset_version, []
    labels = version.labels or []
    for place, n in enumerate(range(7 + version.splits["validation"], 7 + version.splits["validation"] + N_TEST)):
        row = _row(n, version.task, LABELS)
        is_right = place >= N_TEST - n_right if is_from_end else place < n_right
        wrong = labels[(n + 1) % len(labels)] if labels else "I do not know"
        line = {"place": place, "row": n, "question": row["messages"][0]["content"], "expected": row["completion"],
                "got": row["completion"] if is_right else wrong, "tokens_in": 20, "tokens_prefix": 0, "tokens_out": 1,
                "latency_ms": 30.0 + place, "first_token_ms": 20.0}  # fmt: skip
        if labels:
            line["scores"] = [0.0 if label == line["got"] else -2.0 for label in labels]
        lines.append(line)
    return lines


def _done(study: Study, key: str, value: float, out: Path, has_weights: bool) -> dict[str, Any]:
    cell, interval = _cell(key), [max(0.0, value - 0.2), min(1.0, value + 0.2)]
    is_trained = cell["kind"] == "trained"
    return {
        **cell, "state": "done", "metrics": {study.metric: value}, "intervals": {study.metric: interval},
        "value": value, "interval": interval, "n_rows": N_TEST, "tokens_in": 20.0, "tokens_prefix": 0.0,
        "tokens_out": 1.0, "latency_p50_ms": 35.0, "latency_p95_ms": 41.0, "first_token_p50_ms": 20.0,
        "n_trainable": 128 if is_trained else 0, "artifact_bytes": 70, "peak_bytes": 1000,
        "search_s": 2.0, "train_s": 5.0 if is_trained else 0.0, "measure_s": 3.0, "steps": 4 if is_trained else None,
        "learning_rate": 0.001 if is_trained else None, "tries": [], "curve": [],
        "artifact": _artifact(out, key) if is_trained and has_weights else "",
        "spec": {"method": cell["technique"]} if is_trained else _asked(cell["technique"]),
    }  # fmt: skip


def _asked(technique: str) -> dict[str, Any]:
    found = {"technique": technique, "pick": "fixed", "k": 0, "template": "{question}", "fields": ["question"],
             "system": "Reply with one of these: {labels}.", "examples": [], "rule": {}, "n_samples": 1,
             "sample_temperature": 0.7}  # fmt: skip
    if technique == "few_shot":
        found["examples"] = [{"question": "ticket number 1", "answer": "moving"}]
    if technique == "retrieval":
        found |= {"technique": "zero_shot", "collection": "opinions", "passages_sha256": "5e" * 32}
    if technique == "few_shot_nearest":
        found |= {"technique": "few_shot", "pick": "nearest", "k": 2}
    if technique == "self_consistency":
        found |= {"technique": "chain_of_thought", "n_samples": 5, "template": "{question}\n\nThink step by step.",
                  "rule": {"kind": "label", "labels": LABELS}}  # fmt: skip
    return found


def _artifact(out: Path, key: str) -> str:
    folder = out / "artifacts" / key
    folder.mkdir(parents=True, exist_ok=True)
    content = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights of " + key.encode()}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    files = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in content.items()}
    _write(folder / "manifest.json", {
        "schema": 1, "method": key.rpartition("-s")[0], "form": "lora_delta", "files": files,
        "base": {"name": "tiny", "fingerprint": "f" * 64}, "spec": {"steps": 4, "batch_size": 2},
    })  # fmt: skip
    return f"artifacts/{key}"


def board(study: Study, right: Mapping[str, int], *, n_failed: int = 0, n_left_out: int = 0) -> dict[str, Any]:
    """A plain one: the whole cells of the first seed, best first, each a group of its own."""
    first = [key for key in right if _cell(key)["seed"] == study.spec["seeds"][0] and _cell(key)["share"] == 1]
    ranked = sorted(first, key=lambda key: -right[key])
    entries = [
        {**{name: _cell(key)[name] for name in ("technique", "label", "glyph", "kind")}, "place": place,
         "group": place, "is_take": place == 1, "is_tied": place == 1, "value": right[key] / N_TEST,
         "interval": [max(0.0, right[key] / N_TEST - 0.1), min(1.0, right[key] / N_TEST + 0.1)],
         "per_seed": [{"seed": _cell(key)["seed"], "key": key, "value": right[key] / N_TEST, "state": "done",
                       "interval": None}], "best_key": key, "artifact": "", "front": {"size": True}}
        for place, key in enumerate(ranked, start=1)
    ]  # fmt: skip
    names = [entry["technique"] for entry in entries]
    return {
        "metric": study.metric, "metric_label": "Accuracy", "n_rows": N_TEST, "seeds": study.spec["seeds"],
        "complete": True, "entries": entries, "failed": [], "left_out": [], "best": names[0], "take": names[0],
        "n_cells": {"done": len(right), "failed": n_failed, "left_out": n_left_out, "waiting": 0,
                    "total": len(right) + n_failed + n_left_out},
        "pairs": [{"a": names[0], "b": names[-1], "difference": 0.5, "low": 0.2, "high": 0.7, "p": 0.01,
                   "p_adjusted": 0.02, "is_certain": True, "only_a": 6, "only_b": 0, "rows_needed": None}],
        "findings": [{"kind": "take", "sure": "certain", "title": f"Take {names[0]}.", "text": "It is better."}],
        "curves": {}, "sizes": {}, "tries": {}, "guess": 0.34,
    }  # fmt: skip


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def published(study: Study, folder: Path, right: Mapping[str, int], **given: Any) -> Study:
    """The study with results, its run over, as the publishing job leaves it."""
    run = study.run
    assert run is not None
    out = write_out(folder / f"out{run.pk}", study, right, **given)
    key, values = prepare_study(run, out)
    storage.put_folder(out, key)
    Run.objects.filter(pk=run.pk).update(state=Run.State.SUCCEEDED)
    study_publish(run=run, out=out, **values)
    found: Study = Study.objects.select_related("run", "dataset_version__dataset", "team").get(pk=study.pk)
    return found
