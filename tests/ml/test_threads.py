"""Helper threads compute alone, and the model's thread does not notice."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import torch
from ml.threads import helper_threads

def compute():
    (torch.ones(1000, 1000) * 2).sum()
    torch.nn.Linear(1000, 1000)(torch.ones(300, 1000))

def n_threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(4)
compute()
before = n_threads()
with (helper_threads(1, "helper") if sys.argv[1] == "alone" else ThreadPoolExecutor(1)) as pool:
    pool.submit(compute).result()
    during = n_threads()
print(json.dumps([during - before, torch.get_num_threads()]))
"""


def test_a_helper_computes_alone_and_the_model_as_before() -> None:
    def seen(how: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        found: list[int] = json.loads(done.stdout)
        return found

    assert seen("alone") == [1, 4], "the helper itself, without workers"
    assert seen("with workers")[0] == 4, "else it has three workers"
