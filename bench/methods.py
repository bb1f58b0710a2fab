"""Every training technique on a labelling and on a writing task: quality, size, time and memory in one table.

    python bench/methods.py [--only lora full] [--sets snips7] [--quick] [--out var/bench/methods]

Each run is a child, `python -m ml train`, on a data set folder made of `../shared/data`. A run whose result lies in
--out under the same spec is not made again, so that the command can be repeated until all are there. Seconds are the
child's processor seconds, which other work on the machine changes little (the load before each run is kept). About an
hour of two cores: one thread each for --sets snips7 and --sets e2e_nlg side by side, then once more for both.
Writes results.jsonl in --out and, when everything was asked for, the study in docs/studies; ends in one JSON line.
--quick is a check that everything works, in a few minutes: two steps, seven rows. --split valid measures on validation
rows: for choosing learning rates, with --rate lora=3e-3.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import psutil

from bench.method_sets import STUDIES, Study, make_folder
from bench.methods_table import document
from ml.errors import SpecError
from ml.specs import METHODS, check_fits, train_spec

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "docs" / "studies" / "2026-11-every-method.md"
SEED = 17
RATES = {"full": 2e-4}
"""Learning rates other than the technique's own default."""
RATES_FROM = """Learning rates are the technique's own defaults, but 2e-4 for full fine-tuning, whose default suits
larger models. The defaults come from a short look, 30 steps of 8 rows of snips7 measured on 56 of
its *validation* rows: last layers 50.0 % right at 3e-4, 66.1 % at 1e-3; output layers 50.0 % at
1e-3, 60.7 % at 3e-3; IA3 80.4 % at 5e-2; full 91.1 % at 2e-4; the head 92.9 % at 1e-2; prefix-
tuning 60.7 % at 1e-2 and at 3e-2; P-tuning 25.0 % at 1e-2. Prompt tuning did better at 1e-1 than at
3e-2 on another data set (TREC-6). That is no search: a finer one may reorder neighbours."""
PLACES = ("--model", "--data", "--out", "--study")
"""Options that say where things lie, and change no figure."""
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "sacrebleu")


def spec_of(study: Study, method: str, args: argparse.Namespace, dataset_sha256: str) -> dict[str, Any]:
    """The spec of one run. A technique that brings its own steps and batch keeps them: it sees the same rows often."""
    rates = {**RATES, **dict(args.rate)}
    own = METHODS[method].defaults
    sizes = {"steps": study.steps, "batch_size": study.batch_size}
    given: dict[str, Any] = {name: own.get(name, n) if not args.quick else n for name, n in sizes.items()}
    given |= {"learning_rate": rates[method]} if method in rates else {}
    given |= {"method": method, "base": args.model.name, "dataset": study.name, "dataset_sha256": dataset_sha256,
              "eval_rows": study.n_test, "keep_best": False, "flat_steps": 0, "checkpoint_every": 1_000_000,
              "eval_every": 1_000_000, "precision": "float32", "seed": SEED}  # fmt: skip
    return train_spec(given).as_dict()


def key_of(spec: dict[str, Any], measured_on: str) -> str:
    return hashlib.sha256(json.dumps([spec, measured_on], sort_keys=True).encode()).hexdigest()[:16]


def train(spec: dict[str, Any], folder: Path, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Runs the child and reads its events as they come; a run that fails gives its error."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "spec.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "ml", "train", str(work / "spec.json"), "--models", str(args.model.parent),
               "--dataset", str(folder), "--workdir", str(work / "run"), "--device", "cpu",
               "--threads", str(args.threads)]  # fmt: skip
    load, start = os.getloadavg()[0], time.monotonic()
    events = []
    with (work / "stderr.txt").open("w") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True)
        for line in child.stdout or ():
            events.append({**json.loads(line), "at": spent(child.pid)})
        code = child.wait()
    (work / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    found = {"load": round(load, 2), "whole_s": time.monotonic() - start}
    if code:
        said = next((event["error"]["message"] for event in events if event["event"] == "failed"), "")
        return {**found, "error": said or f"exit {code}; see {work / 'stderr.txt'}"}
    return {**found, **summary(events, work / "run" / "out")}


def spent(pid: int) -> float:
    """Processor seconds of all threads of a process so far: other work on the machine hardly changes them."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def summary(events: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """What the events and the artifact say of a finished run. Times in seconds, sizes in bytes."""
    by_name: dict[str, dict[str, Any]] = {event["event"]: event for event in events}
    steps = [event for event in events if event["event"] == "step"]
    measured = {event["subject"]: event for event in events if event["event"] == "eval" and event["split"] == "test"}
    last = steps[-1]["at"]
    looks = [b["at"] - a["at"] for a, b in pairwise(events) if b["event"] == "eval" and b["at"] < last]
    gaps = [after["at"] - before["at"] for before, after in pairwise(steps)]
    found = {
        "n_trainable": by_name["started"]["n_trainable"],
        "planned_bytes": by_name["plan"].get("total"),
        "train_s": last - by_name["plan"]["at"] - sum(looks),
        "step_s": statistics.median(gaps) if gaps else 0.0,
        "train_peak_bytes": max(step.get("peak_bytes") or 0 for step in steps),
        "peak_bytes": by_name["finished"].get("peak_bytes"),
        "artifact_bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        "last_loss": steps[-1]["loss"],
        "n_rows": measured["adapter"]["n_rows"],
    }
    parts = ("metrics", "intervals")
    plain = {name: measured["plain"][name] for name in parts} if "plain" in measured else None
    return {**found, **{name: measured["adapter"][name] for name in parts}, "plain": plain}


def result_of(study: Study, method: str, folder: Path, sha256: str, args: argparse.Namespace) -> dict[str, Any]:
    """The result in --out, or that of a new run."""
    spec = spec_of(study, method, args, sha256)
    name = f"{study.name}-{method}-{key_of(spec, study.measured_on)}"
    kept = args.out / f"{name}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    work = args.out / "work" / name
    about = {"set": study.name, "method": method, "label": METHODS[method].label, "n_train": study.n_train,
             "n_test": study.n_test, "measured_on": study.measured_on,
             **{key: spec[key] for key in ("learning_rate", "steps", "batch_size", "seed", "options")}}  # fmt: skip
    result = {**about, **train(spec, folder, work, args)}
    if "error" not in result:
        kept.write_text(json.dumps(result, indent=1), encoding="utf-8")
        shutil.rmtree(work / "run")
    return result


def fits(study: Study, method: str, family: str) -> bool:
    try:
        check_fits(METHODS[method], family=family, task=study.task)
    except SpecError:
        return False
    return True


def surroundings(args: argparse.Namespace, loads: Sequence[float]) -> dict[str, Any]:
    """What the figures depend on beside the code."""
    from bench.engine import processor
    from ml.backbone import fingerprint_of

    words = [word for before, word in pairwise(sys.argv) if word not in PLACES and before not in PLACES]
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return {
        "command": " ".join(["python bench/methods.py", *words]),
        "commit": commit.strip() or "unknown",
        "base": args.model.name,
        "fingerprint": fingerprint_of(args.model),
        "precision": "float32 (QLoRA: NF4 below float32)",
        "seed": SEED,
        "rates": RATES_FROM,
        "load": f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "memory_bytes": psutil.virtual_memory().total,
                    "system": platform.platform()},
        "versions": {"python": platform.python_version(), **versions},
    }  # fmt: skip


def rate(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in METHODS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(METHODS)}")
    return name, float(value)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "var" / "models" / "smollm2-135m-instruct")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "methods")
    parser.add_argument("--study", type=Path, default=STUDY, help="the document to write")
    parser.add_argument("--only", nargs="+", choices=tuple(METHODS), default=tuple(METHODS), metavar="METHOD")
    parser.add_argument("--sets", nargs="+", choices=[s.name for s in STUDIES], default=[s.name for s in STUDIES])
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="the rows to measure on")
    parser.add_argument("--steps", type=int, help="another number of steps than the study's")
    parser.add_argument("--rows", type=int, help="another number of rows to measure on")
    parser.add_argument("--rate", type=rate, action="append", default=[], metavar="METHOD=RATE")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="two steps and seven rows each; writes no study")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"the raw data sets are not in {args.data}: give their folder with --data")
    return args


def chosen(args: argparse.Namespace) -> list[Study]:
    studies = [study for study in STUDIES if study.name in args.sets]
    studies = [study.quick() if args.quick else study for study in studies]
    return [
        replace(s, steps=args.steps or s.steps, n_test=args.rows or s.n_test, measured_on=args.split) for s in studies
    ]


def is_whole(args: argparse.Namespace) -> bool:
    """Whether everything was asked for at full size: only then a study is written."""
    smaller = args.quick or args.steps or args.rows or args.split != "test"
    return not smaller and set(args.only) == set(METHODS) and len(args.sets) == len(STUDIES)


def main() -> None:
    args = arguments()
    args.out = (args.out / "quick" if args.quick else args.out).absolute()
    os.environ["HF_HUB_OFFLINE"] = "1"
    studies, results, start = chosen(args), [], time.monotonic()
    for study in studies:
        folder, sha256 = make_folder(study, args.data, args.out / "sets" / study.measured_on)
        for method in args.only:
            if not fits(study, method, "decoder"):
                continue
            results.append(result_of(study, method, folder, sha256, args))
            shown = {k: v for k, v in results[-1].items() if k in ("metrics", "train_s", "whole_s", "error", "load")}
            print(f"{study.name:8} {method:14} {json.dumps(shown)}", flush=True)
    (args.out / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in results), encoding="utf-8")
    about = surroundings(args, [result["load"] for result in results])
    text = document(studies=studies, results=results, about=about,
                    before=args.study.read_text(encoding="utf-8") if args.study.is_file() else "")  # fmt: skip
    print(text)
    if is_whole(args):
        args.study.write_text(text, encoding="utf-8")
    print(json.dumps(last_line(studies, results, about, time.monotonic() - start)))
    sys.exit(1 if any("error" in result for result in results) else 0)


def last_line(studies: Sequence[Study], results: Sequence[dict[str, Any]], about: dict[str, Any], s: float) -> Any:
    keys = ("learning_rate", "n_trainable", "artifact_bytes", "train_s", "step_s", "train_peak_bytes", "error")
    figures = {
        study.name: {
            result["method"]: {
                study.headline: (result.get("metrics") or {}).get(study.headline),
                **{key: result[key] for key in keys if key in result},
            }
            for result in results
            if result["set"] == study.name
        }
        for study in studies
    }
    return {"seconds": round(s), "results": figures, **{k: v for k, v in about.items() if k != "rates"}}


if __name__ == "__main__":
    main()
