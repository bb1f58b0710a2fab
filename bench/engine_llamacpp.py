"""llama.cpp on the same machine: `llama-batched-bench` of its own build, for `bench/engine.py --gguf FILE`.

Its Python package is a long compile, so the program is looked for on PATH and its absence is a result of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

PROGRAM = "llama-batched-bench"
ABSENT = "absent"


def speeds(gguf: Path | None, n_prompt: int, steps: int, threads: int) -> dict[int, float] | str:
    """tok/s of decoding at 1 and 16 rows; "absent" when the program or the file is missing."""
    program = shutil.which(PROGRAM)
    if program is None or gguf is None or not gguf.is_file():
        return ABSENT
    done = subprocess.run(
        [program, "-m", str(gguf), "-c", str(16 * (n_prompt + steps)), "-npp", str(n_prompt), "-ntg", str(steps),
         "-npl", "1,16", "-t", str(threads), "-ngl", "0", "--output-format", "jsonl"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {int(row["pl"]): float(row["speed_tg"]) for row in rows}
