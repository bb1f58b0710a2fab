"""llama.cpp beside `bench/engine.py`: decoding by its own `llama-batched-bench`, the same weights in float16.

`make bench-llamacpp` (bench/make_llamacpp.py) makes program and weights; without them the figures are absent. Alike on
both sides: threads, rows, a prompt of its own for each row, its length, the number of steps, a warm-up. Not alike, in
llama.cpp's favour: its keys and values are float16, ours of the model's type; it chooses no tokens but is given random
ones, ours chooses the likeliest of every row. Sixteen rows stand for its parallel server, without
the server's own work.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.3.36"
"""Of llama-cpp-python, whose source package holds the llama.cpp that is built."""
PROGRAM = "llama-batched-bench"
FIGURES = {"vs_llamacpp_1": ("one", "llamacpp_1"), "vs_llamacpp_16": ("plain", "llamacpp_16")}
"""Ratios, and the speeds that they are made of."""
ABSENT = "absent"


def program_in(folder: Path) -> Path:
    return folder / f"{PROGRAM}-{VERSION}"


def gguf_in(folder: Path, model: Path) -> Path:
    return folder / f"{model.resolve().name}-f16.gguf"


def is_current(gguf: Path, model: Path) -> bool:
    """Whether the file is there and no older than the weights it was made of."""
    weights = [path.stat().st_mtime for path in model.glob("*.safetensors")]
    return gguf.is_file() and gguf.stat().st_mtime >= max(weights, default=0)


@dataclass(frozen=True)
class LlamaCpp:
    program: Path
    gguf: Path
    threads: int

    def speeds(self, n_prompt: int, steps: int, rows: Sequence[int]) -> dict[str, float]:
        """tok/s of decoding at each number of rows, by name: llamacpp_1, llamacpp_16.

        The program warms itself up. Raises SystemExit when it does not end well.
        """
        numbers = {
            "-c": max(rows) * (n_prompt + steps), "-npp": n_prompt, "-ntg": steps,
            "-npl": ",".join(map(str, rows)), "-t": self.threads, "-tb": self.threads,
        }  # fmt: skip
        options = [str(word) for pair in numbers.items() for word in pair]
        done = subprocess.run(
            [self.program, "-m", self.gguf, *options, "--output-format", "jsonl"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found = {int(line["pl"]): float(line["speed_tg"]) for line in lines}
        if done.returncode or set(found) != set(rows):
            said = "\n".join(done.stderr.splitlines()[-5:])
            how = f"exit code {done.returncode}, rows {sorted(found)} of {list(rows)} measured"
            raise SystemExit(f"{self.program}: {how}. {said}")
        return {f"llamacpp_{n}": speed for n, speed in found.items()}


def find(folder: Path, model: Path, threads: int, clock: str) -> LlamaCpp | None:
    """None, after saying why and what to do, when there is nothing to compare with."""
    program, gguf = program_in(folder), gguf_in(folder, model)
    if clock != "wall":
        why = f"tells wall time only, not what --clock {clock} asks for"
    elif not program.is_file():
        why = f"is not here, {program} is missing; to have it: make bench-llamacpp"
    elif not is_current(gguf, model):
        why = f"lacks the weights of {model}, {gguf} is missing or older; to have them: make bench-llamacpp"
    else:
        return LlamaCpp(program, gguf, threads)
    print(f"llama.cpp {why}. Absent: {', '.join(FIGURES)}.", flush=True)
    return None
