"""How fast a large JSONL becomes a data set version, and how much memory that takes.

    python bench/datasets.py [--rows 1000000] [--repeat 1] [--folder DIR] [--models DIR] [--quick]
                             [--data FILE --text NAME --label NAME]

Writes a file of labelled messages (some 158 bytes a row), or takes yours, and has it read as the product does, in child
processes: `inspect` (the first look) and `validate` (mapping, splits, duplicates, leakage, report), for all rows and
for a tenth of them, so that the memory of both can be compared. With `--models` (a models folder with the base) tokens
are counted as in a job: a sample of 5,000 rows whatever the size, and the start of the tokenizer. Ends in one JSON
line: `rows_per_s` is wall time of the whole validate child, start included; the `…_cpu` figures count its processor
seconds, which another process's load changes little. Goal: 50,000 rows a second, at a peak that hardly grows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LABELS = ("outage", "billing", "moving", "internet", "meter", "cancellation")
WORDS = [
    f"{begin}{end}" for begin in ("power", "bill", "meter", "router", "street", "flat", "help") for end in ("", "s")
]
TARGET = 50_000


def rows(n: int, seed: int = 1) -> Iterator[str]:
    draw = random.Random(seed)
    for i in range(n):
        text = " ".join(draw.choices(WORDS, k=draw.randint(8, 30)))
        yield json.dumps({"text": f"{text} {i}", "label": draw.choice(LABELS)}) + "\n"


def tenth_of(data: Path, into: Path) -> int:
    """The first tenth of a file's lines as a file of its own; how many lines there are in all."""
    with data.open("rb") as file:
        n_rows = sum(1 for _ in file)
        file.seek(0)
        with into.open("wb") as out:
            out.writelines(islice(file, n_rows // 10))
    return n_rows


def child(kind: str, source: Path, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Runs `python -m ml validate` on the file; its wall and processor seconds, peak memory and progress events."""
    folder.mkdir()
    mapping = {"task": "classification", "prompt": f"Name the queue.\nText: {{{args.text}}}\nQueue:",
               "completion": f"{{{args.label}}}"}  # fmt: skip
    spec = {"kind": kind, "source_path": str(source), "filename": "rows.jsonl", "mapping": mapping, "base": args.base,
            "splits": {"kind": "stratified", "validation": 0.1, "test": 0.1}}  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "ml", "validate", str(folder / "spec.json"), "--workdir", str(folder)]
    command += ["--models", str(args.models.resolve())] if args.models else []
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    events = [json.loads(line) for line in process.stdout]
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{kind} failed: {events[-1:]}")
    return {
        "wall_s": time.perf_counter() - start, "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024, "n_progress": sum(event["event"] == "progress" for event in events),
        "n_rows": events[-1]["metrics"]["n_rows"],
    }  # fmt: skip


def sources(args: argparse.Namespace, folder: Path) -> dict[int, Path]:
    """Files by their number of rows: a tenth, and the whole."""
    if args.data is not None:
        small = folder / "tenth.jsonl"
        n_rows = tenth_of(args.data, small)
        return {n_rows // 10: small, n_rows: args.data.resolve()}
    found = {n: folder / f"{n}.jsonl" for n in (args.rows // 10, args.rows)}
    for n, path in found.items():
        with path.open("w", encoding="utf-8") as file:
            file.writelines(rows(n))
    return found


def measure(args: argparse.Namespace, folder: Path) -> tuple[int, dict[str, Any]]:
    """The number of rows, and of each kind the best of the repetitions by processor time."""
    found: dict[str, Any] = {}
    for place, (n_rows, source) in enumerate(sources(args, folder).items()):
        for kind in ("inspect", "validate"):
            tries = [child(kind, source, folder / f"{kind}-{n_rows}-{i}", args) for i in range(args.repeat)]
            best = min(tries, key=lambda one: one["cpu_s"])
            assert best["n_rows"] == n_rows
            found[f"{kind}_{('tenth', 'whole')[place]}"] = best
            print(
                f"{kind:9} {n_rows:9,} rows: {n_rows / best['wall_s']:9,.0f} rows/s wall, "
                f"{n_rows / best['cpu_s']:9,.0f} a processor second, peak {best['peak_mb']:5.0f} MB, "
                f"{best['n_progress']:.0f} progress events", flush=True,
            )  # fmt: skip
    return n_rows, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--models", type=Path, help="the models folder: count tokens, as a job does")
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--data", type=Path, help="a file of JSON lines in place of the made-up rows")
    parser.add_argument("--text", default="text", help="its column of texts")
    parser.add_argument("--label", default="label", help="its column of labels")
    parser.add_argument("--quick", action="store_true", help="2,000 rows: does it run?")
    args = parser.parse_args()
    args.rows = 2_000 if args.quick else args.rows
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        n, found = measure(args, Path(folder))
    whole, small, look = found["validate_whole"], found["validate_tenth"], found["inspect_whole"]
    print(json.dumps({
        "bench": "datasets", "rows": n, "rows_per_s": round(n / whole["wall_s"]),
        "rows_per_s_cpu": round(n / whole["cpu_s"]), "wall_s": round(whole["wall_s"], 2),
        "cpu_s": round(whole["cpu_s"], 2), "inspect_rows_per_s_cpu": round(n / look["cpu_s"]),
        "peak_rss_mb": round(whole["peak_mb"]), "peak_rss_mb_tenth": round(small["peak_mb"]),
        "bytes_a_row": round((whole["peak_mb"] - small["peak_mb"]) * 2**20 / (0.9 * n)),
        "inspect_peak_rss_mb": round(look["peak_mb"]), "n_progress": round(whole["n_progress"]),
        "counts_tokens": args.models is not None, "data": str(args.data or "made up"), "target_rows_per_s": TARGET,
        "cores": os.cpu_count(), "load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1),
        "nice": os.getpriority(os.PRIO_PROCESS, 0), "python": platform.python_version(),
        "bench_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
