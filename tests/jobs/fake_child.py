"""A child that speaks the events of `python -m ml` without loading anything: `fake_child.py WORKDIR` obeys spec.json.

It counts its starts in WORKDIR/starts, keeps its step in WORKDIR/step, so that it resumes, and writes an artifact.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

folder = Path(sys.argv[1])
spec = json.loads((folder / "spec.json").read_text())
plan: dict[str, Any] = spec.get("options") or {}
stopping = False


def say(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def on_term(*_: Any) -> None:
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, signal.SIG_IGN if plan.get("is_deaf") else on_term)
starts, kept = folder / "starts", folder / "step"
with starts.open("a") as file:
    file.write(f"{os.getpid()}\n")
n_starts = len(starts.read_text().splitlines())
n_steps, first = plan.get("steps", 3), int(kept.read_text()) if kept.is_file() else 0
print("loading the model", file=sys.stderr, flush=True)
print("a library that prints", flush=True)
say("started", n_steps=n_steps, base="tiny", method="lora", n_trainable=128, device="cpu")
say("phase", text="Training")
if n_starts <= plan.get("n_crashes", 0):
    os.kill(os.getpid(), signal.SIGKILL)
for step in range(first + 1, n_steps + 1):
    time.sleep(plan.get("step_s", 0))
    say("step", step=step, n_steps=n_steps, loss=2.0 / step, learning_rate=0.1, grad_norm=1.0, tokens_per_s=10.0,
        elapsed_s=step, eta_s=n_steps - step, peak_bytes=1000)  # fmt: skip
    kept.write_text(str(step))
    say("checkpoint", step=step, path=str(kept), bytes=1)
    if stopping:
        say("stopped", step=step)
        sys.exit(75)
if plan.get("fails_with"):
    error = {"code": "odd", "message": "It went wrong.", "hint": "Do it otherwise.", "field": "", "permanent": True}
    if not plan.get("is_silent"):
        say("failed", error=error)
    sys.exit(plan["fails_with"])
say("eval", step=n_steps, split="test", metrics={"accuracy": 0.9}, intervals={"accuracy": [0.8, 0.95]}, n_rows=10,
    samples=[], subject="adapter")  # fmt: skip
out = folder / "out"
out.mkdir(exist_ok=True)
(out / "adapter_model.safetensors").write_bytes(b"weights of run " + folder.name.encode())
sha256 = hashlib.sha256((out / "adapter_model.safetensors").read_bytes()).hexdigest()
manifest = {
    "schema": 1, "method": "lora", "form": "lora_delta", "base": {"name": "tiny", "fingerprint": "0" * 64},
    "metrics": {},
    "files": {"adapter_model.safetensors": {"sha256": sha256, "bytes": 20}},
}  # fmt: skip
(out / "manifest.json").write_text(json.dumps(manifest))
if plan.get("is_damaged"):
    (out / "adapter_model.safetensors").write_bytes(b"one flipped byte")
say("finished", out=str(out), metrics={"test": {"accuracy": 0.9}}, peak_bytes=1000, seconds=1.0)
