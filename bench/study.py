"""The published studies: every technique that applies, on five data sets, with the starter model.

    python bench/study.py --data ../shared/data [--sets snips7 e2e_nlg] [--full] [--quick] [--out var/bench/study]

Each set is one `python -m ml study`, as in the product: learning rates searched on validation rows, everything measured
on the same test rows through the engine. A set that was stopped goes on where it was. The report of each, with all its
figures, is put into docs/studies (not with --quick). A set takes about three quarters of an hour of two cores; --full
is for a GPU; --quick is a check of a few minutes that everything works. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.study_passages import find_passages
from bench.study_sets import SETS, Set, make_folder
from ml.study.report import write_reports

ROOT = Path(__file__).resolve().parent.parent
_QUICK = {"steps": 2, "batch_size": 4, "n_tries": 2, "train_rows": 40, "valid_rows": 8, "test_rows": 8, "seeds": [17],
          "shares": [], "max_tokens": 8, "n_examples": 2}  # fmt: skip
_KEPT = ("overhead_s", "seconds", "spent_s", "machine", "versions", "commit", "command", "base_fingerprint")


def spec_of(study: Set, args: argparse.Namespace) -> dict[str, Any]:
    size = {**study.full} if args.full else {}
    spec = {**study.spec, **size, **(_QUICK if args.quick else {})}
    if args.quick and study.task == "classification":
        spec["train_rows"] = 240
    spec |= {"seeds": args.seeds} if args.seeds else {}
    spec |= {"shares": [], "curve_techniques": []} if args.no_curve else {}
    spec |= {"collection": study.name} if study.has_documents else {}
    return {**spec, "techniques": args.only or study.techniques, "base": args.base, "dataset": f"{study.name}@1",
            "budget_s": 60 * args.budget}  # fmt: skip


def run(study: Set, args: argparse.Namespace) -> dict[str, Any]:
    """Runs or goes on with one set; returns the figures of its board."""
    spec = spec_of(study, args)
    place = args.out / ("quick" if args.quick else "full" if args.full else "cpu") / study.name
    folder, sha256 = make_folder(study, spec, args.data, place / "data")
    (place / "study.json").write_text(json.dumps({**spec, "dataset_sha256": sha256}, indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "ml", "study", str(place / "study.json"), "--models", str(args.models),
               "--dataset", str(folder), "--workdir", str(place / "work"), "--device", args.device,
               "--threads", str(args.threads)]  # fmt: skip
    if study.has_documents:
        command += ["--passages", str(write_passages(study, args, folder, place))]
    before = args.out / "before" / study.name
    command += ["--before", str(before)] if before.is_dir() else []
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with (place / "log.txt").open("a") as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        for line in child.stdout or ():
            _say(study, json.loads(line))
        code = child.wait()
    if code:
        raise SystemExit(f"{study.name} ended with exit code {code}; see {place / 'log.txt'}")
    out = place / "work" / "out"
    board = json.loads((out / "board.json").read_text(encoding="utf-8"))
    about = json.loads((out / "study.json").read_text(encoding="utf-8"))
    if not args.quick:
        publish(study, out, args.publish)
    share = about["overhead_s"] / about["seconds"]
    return {
        "take": board["take"], "best": board["best"], "overhead_share": round(share, 4),
        board["metric"]: {entry["technique"]: round(entry["value"], 4) for entry in board["entries"]},
        **{name: about[name] for name in _KEPT if name in about},
    }  # fmt: skip


def write_passages(study: Set, args: argparse.Namespace, folder: Path, place: Path) -> Path:
    """What the set's documents have for its test rows; found once."""
    path = place / "passages.json"
    if not path.is_file():
        lines = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
        questions = [json.loads(line)["messages"][-1]["content"] for line in lines]
        corpus = args.data / study.name / "corpus.jsonl"
        found = find_passages(corpus, questions, models=args.models, name=study.name)
        path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    return path


def _say(study: Set, event: dict[str, Any]) -> None:
    if event["event"] == "cell" and event.get("state") in ("done", "failed", "left_out"):
        shown = {k: v for k, v in event.items() if k in ("key", "state", "value", "seconds", "reason", "error")}
        print(f"{study.name:10} {json.dumps(shown, ensure_ascii=False)}", flush=True)
    elif event["event"] == "failed":
        print(f"{study.name:10} {event['error']['message']}", flush=True)


def publish(study: Set, out: Path, into: Path) -> None:
    """The report as Markdown and CSV, and all that it was made from in one JSON file; no row of the data is in them."""
    into.mkdir(parents=True, exist_ok=True)
    note = f"\nPublished by others: {study.published}. {study.differs}\n"
    cells = [without_rows(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(out.glob("cells/*.json"))]
    with tempfile.TemporaryDirectory() as name:
        told = Path(name)
        (told / "cells").mkdir()
        for file in ("board.json", "study.json"):
            shutil.copyfile(out / file, told / file)
        for cell in cells:
            (told / "cells" / f"{cell['key']}.json").write_text(json.dumps(cell), encoding="utf-8")
        write_reports(told)
        title, _, rest = (told / "report.md").read_text(encoding="utf-8").partition("\n")
        (into / f"{study.name}.md").write_text(f"{title}\n{note}{rest}", encoding="utf-8")
        shutil.copyfile(told / "report.csv", into / f"{study.name}.csv")
    about = json.loads((out / "study.json").read_text(encoding="utf-8"))
    lines = [json.dumps(line, ensure_ascii=False, sort_keys=True) for line in (about, *cells)]
    (into / f"{study.name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def without_rows(cell: dict[str, Any]) -> dict[str, Any]:
    """The cell with its examples named by their hashes: the data sets are others'."""
    spec = cell.get("spec") or {}
    shown = [{"sha256": hashlib.sha256(f"{e['question']}\n{e['answer']}".encode()).hexdigest()[:16]}
             for e in spec.get("examples") or () if "question" in e]  # fmt: skip
    return {**cell, "spec": {**spec, "examples": shown}} if shown else cell


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [study.name for study in SETS]
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the raw data sets' folder")
    parser.add_argument("--models", type=Path, default=ROOT / "var" / "models")
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "study")
    parser.add_argument("--publish", type=Path, default=ROOT / "docs" / "studies", help="where the reports go")
    parser.add_argument("--sets", nargs="+", choices=names, default=names, metavar="SET")
    parser.add_argument("--only", nargs="+", metavar="TECHNIQUE", help="fewer techniques")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="other seeds than the set's")
    parser.add_argument("--no-curve", action="store_true", help="without smaller shares of the rows")
    parser.add_argument("--budget", type=float, default=0, help="minutes a set may take; 0: no limit")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--full", action="store_true", help="all rows, 400 steps, three seeds: for a GPU")
    parser.add_argument("--quick", action="store_true", help="two steps, eight rows; publishes nothing")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"the raw data sets are not in {args.data}: give their folder with --data")
    args.out = args.out.absolute()
    return args


def main() -> None:
    args, began, found = arguments(), time.monotonic(), {}
    for study in (study for study in SETS if study.name in args.sets):
        found[study.name] = run(study, args)
    print(json.dumps({"bench": "study", "seconds": round(time.monotonic() - began), "sets": found}))


if __name__ == "__main__":
    main()
