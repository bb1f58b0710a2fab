"""The bench of data sets runs, small, and ends in its line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench" / "datasets.py"


def test_a_small_run_ends_in_figures(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--rows", "2000", "--folder", str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["rows"] == 2000
    assert figures["rows_per_s"] > 0 < figures["peak_rss_mb"]
    assert not list(tmp_path.iterdir())
