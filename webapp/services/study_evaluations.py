"""The answered rows of a study's entry as an evaluation of the version that it became.

It is an evaluation like any other, without a run: its rows can be browsed and downloaded, and later evaluations of the
same rows are compared with it pair by pair. Nothing is measured here; labels are counted for the confusions.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp import storage
from webapp.models import AdapterVersion, Evaluation, PromptVersion, Study, StudyEntry
from webapp.selectors.study_rows import lines_of
from webapp.selectors.targets import PROMPT
from webapp.services.evaluations import evaluation_fill


@dataclass(frozen=True, kw_only=True)
class Answers:
    """An entry's rows in the storage, as an evaluation keeps them."""

    results: str
    is_scored: bool
    metrics: tuple[str, ...]


def answers_stored(entry: StudyEntry) -> Answers:
    """Puts rows and figures under `evaluations/` in the storage."""
    metrics = _metrics_of(entry)
    with _folder() as folder:
        lines = list(lines_of(entry.study, entry.key))
        raw = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        (folder / "results.jsonl").write_bytes(raw)
        summary = json.dumps(_summary(entry, metrics, lines), ensure_ascii=False, allow_nan=False)
        (folder / "summary.json").write_text(summary, encoding="utf-8")
        results = hashlib.sha256(raw).hexdigest()
        storage.put_folder(folder, f"evaluations/{results}")
    return Answers(results=results, is_scored=any("scores" in line for line in lines), metrics=metrics)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cf-study-") as name:
        yield Path(name)


def _metrics_of(entry: StudyEntry) -> tuple[str, ...]:
    """Those that were measured, the study's own first."""
    metric, measured = entry.study.metric, entry.summary["metrics"]
    return (metric, *(name for name, value in measured.items() if name != metric and value is not None))


def _summary(entry: StudyEntry, metrics: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    about, labels = entry.summary, entry.study.dataset_version.labels or []
    errors = [str(line["error"].get("message", "")) for line in lines if "error" in line]
    costs = ("tokens_in", "tokens_prefix", "tokens_out", "latency_p50_ms", "latency_p95_ms", "first_token_p50_ms",
             "first_token_p95_ms")  # fmt: skip
    figures = {
        **{name: about.get(name) for name in costs}, "n_rows": len(lines), "n_errors": len(errors),
        "n_right": sum(bool(line["is_right"]) for line in lines), "errors": sorted(set(errors))[:5],
        "seconds": about.get("measure_s") or 0,
    }  # fmt: skip
    if labels:
        figures["confusion"] = _confusion(lines, labels)
    return {
        "main_metric": metrics[0], "metrics": {name: about["metrics"][name] for name in metrics},
        "intervals": {name: pair for name, pair in about["intervals"].items() if name in metrics},
        "figures": figures, "versions": _versions(entry.study),
    }  # fmt: skip


def _confusion(lines: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[list[int]]:
    """[expected, got, count] by the labels' places; got -1 is no label at all."""
    places = {label: place for place, label in enumerate(labels)}
    known = [line for line in lines if line["expected"] in places]
    cells = Counter((places[line["expected"]], places.get(line["got"], -1)) for line in known)
    return [[*cell, n] for cell, n in sorted(cells.items())]


def _versions(study: Study) -> dict[str, Any]:
    about = study.about
    return {**(about.get("versions") or {}), "device": str((about.get("machine") or {}).get("device", "")),
            "base_fingerprint": str(about.get("base_fingerprint", ""))}  # fmt: skip


def evaluation_made(
    *, entry: StudyEntry, version: AdapterVersion | PromptVersion, user: Any, answers: Answers
) -> Evaluation:
    """Call inside a transaction, once for an entry, after its version was made and linked."""
    study, is_adapter = entry.study, isinstance(version, AdapterVersion)
    evaluation = Evaluation.objects.create(
        team=study.team, created_by=user, subject=str(version) if is_adapter else f"{PROMPT}{version}",
        adapter_version=version if is_adapter else None, prompt_version=None if is_adapter else version,
        collection=None if is_adapter else version.collection,
        collection_name="" if is_adapter else version.collection_name,
        base_name=study.base_name, dataset_version=study.dataset_version, split="test",
        n_rows=entry.summary["n_rows"], main_metric=answers.metrics[0],
        spec={"metrics": list(answers.metrics), "is_scored": answers.is_scored, "seed": entry.seed,
              "max_tokens": study.spec["max_tokens"], "study": study.pk, "entry": entry.key},
    )  # fmt: skip
    folder = storage.path_of(f"evaluations/{answers.results}")
    evaluation_fill(evaluation=evaluation, folder=folder, results=answers.results, comparisons=_comparisons(entry))
    return evaluation


def _comparisons(entry: StudyEntry) -> dict[int, Mapping[str, Any]]:
    """With older evaluations of the same rows that are still there, and with rivals that were promoted before."""
    team, compared = entry.study.team, entry.compared
    others: Mapping[str, Any] = compared.get("evaluations") or {}
    here = Evaluation.objects.for_team(team).filter(pk__in=[int(pk) for pk in others]).values_list("pk", flat=True)
    found = {pk: others[str(pk)] for pk in here}
    rivals: Mapping[str, Any] = compared.get("entries") or {}
    for rival in entry.study.entries.filter(key__in=rivals).exclude(pk=entry.pk):
        made = _evaluation_of(rival)
        if made is not None:
            found[made.pk] = rivals[rival.key]
    return found


def _evaluation_of(entry: StudyEntry) -> Evaluation | None:
    version = {"adapter_version": entry.adapter_version_id, "prompt_version": entry.prompt_version_id}
    if not any(version.values()):
        return None
    return Evaluation.objects.filter(**version, spec__study=entry.study_id, spec__entry=entry.key).first()
