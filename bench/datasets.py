"""How fast a large JSONL becomes a data set version, and how much memory that takes.

    python bench/datasets.py [--rows 1000000] [--repeat 1] [--folder DIR]

Writes a file of labelled messages (some 158 bytes a row), then has it read as the product does, in child processes:
`inspect` (the first look) and `validate` (mapping, splits, duplicates, leakage, report; tokens are not counted: that is
a sample of 5,000 rows whatever the size), for the rows asked for and for a tenth of them, so that the memory of both
can be compared. Ends in one JSON line: `rows_per_s` is wall time of the whole validate child, start included; the
`…_cpu` figures count its processor seconds, which another process's load changes little.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LABELS = ("outage", "billing", "moving", "internet", "meter", "cancellation")
WORDS = [
    f"{begin}{end}" for begin in ("power", "bill", "meter", "router", "street", "flat", "help") for end in ("", "s")
]
MAPPING = {"task": "classification", "prompt": "Name the queue.\nText: {text}\nQueue:", "completion": "{label}"}
TARGET = 50_000


def rows(n: int, seed: int = 1) -> Iterator[str]:
    draw = random.Random(seed)
    for i in range(n):
        text = " ".join(draw.choices(WORDS, k=draw.randint(8, 30)))
        yield json.dumps({"text": f"{text} {i}", "label": draw.choice(LABELS)}) + "\n"


def child(kind: str, source: Path, folder: Path) -> dict[str, float]:
    """Runs `python -m ml validate` on the file; its wall and processor seconds, peak memory and progress events."""
    folder.mkdir()
    spec = {"kind": kind, "source_path": str(source), "filename": "rows.jsonl", "mapping": MAPPING,
            "splits": {"kind": "stratified", "validation": 0.1, "test": 0.1}}  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "ml", "validate", str(folder / "spec.json"), "--workdir", str(folder)]
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


def measure(n: int, repeat: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for n_rows in (n // 10, n):
        source = folder / f"{n_rows}.jsonl"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(rows(n_rows))
        for kind in ("inspect", "validate"):
            tries = [child(kind, source, folder / f"{kind}-{n_rows}-{i}") for i in range(repeat)]
            best = min(tries, key=lambda one: one["cpu_s"])
            assert best["n_rows"] == n_rows
            found[f"{kind}_{n_rows}"] = best
            print(
                f"{kind:9} {n_rows:9,} rows: {n_rows / best['wall_s']:9,.0f} rows/s wall, "
                f"{n_rows / best['cpu_s']:9,.0f} a processor second, peak {best['peak_mb']:5.0f} MB, "
                f"{best['n_progress']:.0f} progress events"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(args.rows, args.repeat, Path(folder))
    whole, small = found[f"validate_{args.rows}"], found[f"validate_{args.rows // 10}"]
    look = found[f"inspect_{args.rows}"]
    print(json.dumps({
        "bench": "datasets", "rows": args.rows, "rows_per_s": round(args.rows / whole["wall_s"]),
        "rows_per_s_cpu": round(args.rows / whole["cpu_s"]), "inspect_rows_per_s_cpu": round(args.rows / look["cpu_s"]),
        "peak_rss_mb": round(whole["peak_mb"]), "peak_rss_mb_tenth": round(small["peak_mb"]),
        "bytes_a_row": round((whole["peak_mb"] - small["peak_mb"]) * 2**20 / (0.9 * args.rows)),
        "inspect_peak_rss_mb": round(look["peak_mb"]), "target_rows_per_s": TARGET, "cores": os.cpu_count(),
        "load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1),
        "nice": os.getpriority(os.PRIO_PROCESS, 0), "python": platform.python_version(),
        "bench_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
