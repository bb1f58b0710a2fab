"""What a study's child is given, and how what it left becomes entries: the Django side of `python -m ml study`.

Guarantees: a study that is extended hands its child what was measured before; what is published is named by its
content, every artifact in it is what its manifest says, and every answered row says whether it is right. What a stopped
or failed study had finished is kept as well, so that it can be looked at, promoted and gone on with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction

from jobs.child import thread_count
from jobs.study_passages import is_to_search, with_passages
from ml.errors import ArtifactError, ColdframeError, DataError, NotFoundError
from ml.evaluate.answers import Answered, is_right
from ml.evaluate.paired import compare, same_rows
from ml.evaluate.scorers import row_scores
from webapp.models import Evaluation, Run, Study

logger = logging.getLogger(__name__)

OWN_KEYS = ("kind", "study")
"""Keys of a study's run that are for the app, not for `ml`."""
MOST_COMPARED = 10
"""Evaluations of the same rows that each entry is compared with, the newest first."""
OVER_BADLY = (Run.State.FAILED, Run.State.CANCELLED)


def command(run: Run, folder: Path) -> list[str]:
    """Writes spec.json and returns the command line. Raises NotFoundError when the study went on without this run."""
    from webapp import storage

    study = _of(run)
    spec = {key: value for key, value in run.spec.items() if key not in OWN_KEYS}
    draft = folder / ".spec.json"
    draft.write_text(json.dumps(spec, ensure_ascii=False, indent=1), encoding="utf-8")
    draft.replace(folder / "spec.json")
    data = storage.path_of(study.dataset_version.storage_key)
    words = [sys.executable, "-m", "ml", "study", str(folder / "spec.json"), "--workdir", str(folder)]
    words += ["--models", str(settings.MODELS_DIR), "--dataset", str(data)]
    if study.is_done:
        words += ["--before", str(storage.path_of(study.storage_key))]
    words += ["--device", "auto", "--threads", str(thread_count())]
    return with_passages(study, spec, folder, words)


def extra_env(run: Run) -> dict[str, str]:
    """Redis' address, where passages are searched first; the study itself does without. After `command`."""
    from jobs.commands import workdir_of

    return {"REDIS_URL": str(settings.REDIS_URL)} if is_to_search(workdir_of(run.pk)) else {}


def _of(run: Run) -> Study:
    found = Study.objects.select_related("dataset_version", "team", "collection").filter(run=run).first()
    if found is None:
        raise NotFoundError(f"The study of run {run.pk} is gone, or went on with another run.",
                            hint="Look at the list of studies.")  # fmt: skip
    return found


def prepare_study(run: Run, out: Path) -> tuple[str, dict[str, Any]]:
    """Where the results are kept, and what the publishing service is given. Raises ArtifactError when damaged."""
    study = _of(run)
    for draft in [path for path in out.rglob(".*") if path.is_file()]:
        draft.unlink()  # of a write that was interrupted; the storage takes no hidden files
    cells = cells_in(out)
    for cell in cells.values():
        if cell["state"] == "done":
            _judge(out / "rows" / f"{cell['key']}.jsonl", study.metric)
    hashes = _hashes(out)
    for cell in cells.values():
        if cell.get("artifact"):
            _check_artifact(out, str(cell["artifact"]), hashes)
    listing = "".join(f"{name} {sha256}\n" for name, sha256 in sorted(hashes.items()))
    results = hashlib.sha256(listing.encode()).hexdigest()
    return f"studies/{results}", {"results": results, "compared": compared(study, out, cells)}


def cells_in(out: Path) -> dict[str, dict[str, Any]]:
    """The finished, failed and left out cells by key. Raises DataError naming the file that cannot be read."""
    found = {}
    for path in sorted((out / "cells").glob("*.json")):
        try:
            cell = json.loads(path.read_bytes())
            found[str(cell["key"])] = dict(cell)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path.name} of the study cannot be read: {error}.") from error
    return found


def _judge(path: Path, metric: str) -> None:
    """Each answered row gets `is_right` and its `score`, where it has none yet."""
    lines = _lines(path)
    if all("is_right" in line for line in lines):
        return
    rows = [Answered.from_dict(line) for line in lines]
    draft = path.with_name(f".{path.name}")
    with draft.open("w", encoding="utf-8") as file:
        for line, row, score in zip(lines, rows, row_scores(metric, rows), strict=True):
            judged = {**line, "is_right": is_right(row, metric), "score": round(score, 4)}
            file.write(json.dumps(judged, ensure_ascii=False) + "\n")
    draft.replace(path)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise DataError(f"The answered rows {path.name} of the study cannot be read: {error}.") from error


def _hashes(out: Path) -> dict[str, str]:
    from jobs.publish import sha256_of

    return {path.relative_to(out).as_posix(): sha256_of(path) for path in out.rglob("*") if path.is_file()}


def _check_artifact(out: Path, folder: str, hashes: Mapping[str, str]) -> None:
    try:
        files = json.loads((out / folder / "manifest.json").read_bytes())["files"]
        known = {str(name): str(about["sha256"]) for name, about in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"The manifest of {folder} cannot be read: {error}.") from error
    for name, sha256 in known.items():
        if hashes.get(f"{folder}/{name}") != sha256:
            raise ArtifactError(f"{folder}/{name} is not what its manifest says: it is damaged or missing.",
                                hint="Check the disk, then retry.")  # fmt: skip


def compared(study: Study, out: Path, cells: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By key of what may be promoted: its rivals in this study, and the newest evaluations of the same rows, each
    other's figures minus its own. The gate of `production` judges by them once both are in the library."""
    rows = {
        key: [Answered.from_dict(line) for line in _lines(out / "rows" / f"{key}.jsonl")]
        for key, cell in cells.items() if may_be_promoted(cell)
    }  # fmt: skip
    found: dict[str, dict[str, Any]] = {key: {"entries": {}, "evaluations": {}} for key in rows}
    for one, other in combinations(rows, 2):
        if result := _against(rows[one], rows[other], study.metric):
            found[one]["entries"][other] = result
            found[other]["entries"][one] = _turned(result)
    for pk, theirs in _evaluated(study).items():
        for key, mine in rows.items():
            if result := _against(mine, theirs, study.metric):
                found[key]["evaluations"][str(pk)] = result
    return found


def may_be_promoted(cell: Mapping[str, Any]) -> bool:
    """As selectors/study_cells.py says it of entries."""
    if cell["state"] != "done" or float(cell.get("share") or 1) < 1:
        return False
    return bool(cell.get("artifact")) if cell["kind"] == "trained" else cell["technique"] != "plain"


def _against(mine: list[Answered], theirs: list[Answered], metric: str) -> dict[str, Any] | None:
    a, b = same_rows(theirs, mine)
    return compare(a, b, metrics=[metric]) if a else None


def _turned(result: Mapping[str, Any]) -> dict[str, Any]:
    """The same comparison from the other side; as the bootstrap draws the same rows, nothing is computed anew."""
    turned = {}
    for name, one in result["metrics"].items():
        low, high, difference = (None if one[key] is None else -one[key] for key in ("high", "low", "difference"))
        turned[name] = {**one, "a": one["b"], "b": one["a"], "difference": difference, "low": low, "high": high}
        if "mcnemar" in one:
            sides = {"only_a": one["mcnemar"]["only_b"], "only_b": one["mcnemar"]["only_a"]}
            turned[name]["mcnemar"] = {**one["mcnemar"], **sides}
    return {**result, "metrics": turned}


def _evaluated(study: Study) -> dict[int, list[Answered]]:
    from jobs.evaluation import answered_in
    from webapp import storage

    others = Evaluation.objects.filter(team=study.team, dataset_version=study.dataset_version, split="test")
    others = others.exclude(results="").exclude(adapter_version=None, prompt_version=None)
    return {
        other.pk: answered_in(storage.path_of(other.storage_key))
        for other in others.order_by("-pk")[:MOST_COMPARED] if study.metric in other.metrics
    }  # fmt: skip


def keep(run_id: int, folder: Path) -> None:
    """What a stopped or failed study had finished goes where a finished one's results go. Never raises: what cannot be
    kept is still in the run's folder."""
    run = Run.objects.filter(pk=run_id, kind=Run.Kind.STUDY, state__in=OVER_BADLY).first()
    if run is None or not (folder / "out" / "study.json").is_file():
        return
    try:
        _keep(run, folder / "out")
    except (ColdframeError, OSError, DatabaseError) as error:
        logger.warning("what run %s had finished was not kept: %s", run_id, error)


def _keep(run: Run, out: Path) -> None:
    from jobs.publish import service
    from webapp import storage

    key, values = prepare_study(run, out)
    storage.put_folder(out, key)
    with transaction.atomic():
        # A run that was tried again meanwhile has its child in this folder: it will publish by itself.
        if Run.objects.select_for_update().filter(pk=run.pk, fence=run.fence, state__in=OVER_BADLY).exists():
            service(run.kind)(run=run, out=out, **values)


def sweep(*, older_than_s: float, now: float) -> int:
    """Removes what no study points to any more, since it was extended or deleted; returns how many folders."""
    from webapp import storage

    kept, n_removed = set(Study.objects.exclude(results="").values_list("results", flat=True)), 0
    for folder in (storage.root() / "studies").glob("[!.]*"):
        if folder.name not in kept and now - folder.stat().st_mtime > older_than_s:
            storage.delete(f"studies/{folder.name}")
            n_removed += 1
    return n_removed
