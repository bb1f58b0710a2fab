"""The bench of data sets runs, small, and ends in its line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "datasets.py"


def run(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(BENCH), *words], capture_output=True, text=True, timeout=300, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_a_small_run_ends_in_figures(tmp_path: Path) -> None:
    figures = run("--quick", "--folder", str(tmp_path))
    assert figures["rows"] == 2000
    assert figures["rows_per_s"] > 0 < figures["peak_rss_mb"]
    assert figures["rows_per_s_cpu"] == pytest.approx(2000 / figures["cpu_s"], rel=0.1)
    assert not list(tmp_path.iterdir())


def test_a_file_of_ones_own_is_read_in_its_columns(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps({"said": f"row {n}", "queue": "ab"[n % 2]}) + "\n" for n in range(50)))
    figures = run("--data", str(data), "--text", "said", "--label", "queue", "--folder", str(tmp_path))
    assert (figures["rows"], figures["data"]) == (50, str(data))
