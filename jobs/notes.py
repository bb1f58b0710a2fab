"""What a child says, gathered into batches for the database: newest progress, steps, events, log lines.

Guarantees: every event line is also appended to <workdir>/log.jsonl; a batch that could not be written is kept and sent
again; a chatty child cannot flood the database (log lines are bounded a run, steps and events are written in bulk).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOG_LINES_KEPT = 2000
STEP_KEYS = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "elapsed_s", "eta_s", "peak_bytes")


@dataclass
class Batch:
    """What one transaction writes."""

    progress: dict[str, Any] | None = None
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)


class Notes:
    def __init__(self, workdir: Path, *, progress: dict[str, Any] | None = None) -> None:
        """`progress` is what an earlier attempt reached: the page goes on from there instead of from nothing."""
        workdir.mkdir(parents=True, exist_ok=True)
        self._file = workdir / "log.jsonl"
        self._pending = Batch()
        self._log: list[str] = []
        self._n_log_lines = 0
        self.progress = {key: value for key, value in (progress or {}).items() if key not in ("eta_s", "text")}
        self.has_spoken = False
        self.finished: dict[str, Any] | None = None
        self.failed: dict[str, Any] | None = None

    def add(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "log":
            self._n_log_lines += 1
            if self._n_log_lines <= LOG_LINES_KEPT:
                self._log.append(data["text"])
            return
        self.has_spoken = True
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data, ensure_ascii=False) + "\n")
        name, values = data["event"], {key: value for key, value in data.items() if key != "event"}
        hear = getattr(self, f"_on_{name}", None)
        if hear is not None:
            hear(values)
        if name not in ("step", "progress"):
            self._pending.events.append((name[:20], values))

    def _progress(self, **values: Any) -> None:
        self.progress = {**self.progress, **values}
        self._pending.progress = self.progress

    def _on_started(self, data: dict[str, Any]) -> None:
        keys = ("device", "n_trainable")
        self._progress(
            done=self.progress.get("done", 0),
            total=data.get("n_steps"),
            **{key: data[key] for key in keys if key in data},
        )

    def _on_phase(self, data: dict[str, Any]) -> None:
        self._progress(text=str(data.get("text", ""))[:200])

    def _on_step(self, data: dict[str, Any]) -> None:
        if not isinstance(data.get("step"), int):
            return
        self._pending.metrics.append(data)
        known = {key: data[key] for key in STEP_KEYS if key in data}
        self._progress(done=data["step"], total=data.get("n_steps"), text="", **known)

    def _on_progress(self, data: dict[str, Any]) -> None:
        self._progress(**{key: data[key] for key in ("done", "total", "text", "eta_s", "n_failed") if key in data})

    def _on_checkpoint(self, data: dict[str, Any]) -> None:
        self._progress(checkpoint=data.get("step"))

    def _on_finished(self, data: dict[str, Any]) -> None:
        self.finished = data
        self._progress(eta_s=0, text="Publishing")

    def _on_failed(self, data: dict[str, Any]) -> None:
        error = data.get("error")
        self.failed = error if isinstance(error, dict) and isinstance(error.get("message"), str) else None

    def batch(self) -> Batch:
        """All that is not written yet. Call `written` with it once it is."""
        if self._log:
            self._pending.events.append(("log", {"lines": self._log}))
            self._log = []
        return self._pending

    def written(self, batch: Batch) -> None:
        if batch is self._pending:
            self._pending = Batch()
