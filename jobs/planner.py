"""Answers the service `plan`: how much memory a run will need, or how long a study will take. A warm child process does
it, in a thread of its own.

The child is `python -m ml plan --serve`: it has torch and no model, is started by the first question and ended after
ten minutes without one, and dies with the engine. Questions wait here in line, never in front of embedding or search;
one that nobody waits for any more is dropped. A child that dies is started anew by the next question.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.child import child_env, preparation
from ml.errors import ColdframeError, UnavailableError

IDLE_S = 600.0
_TICK_S = 1.0
Reply = Callable[[dict[str, Any]], None]
logger = logging.getLogger(__name__)


class Planner:
    def __init__(self, models_dir: Path, *, device: str = "auto", idle_s: float = IDLE_S) -> None:
        self._command = [sys.executable, "-m", "ml", "plan", "--serve", "--models", str(models_dir), "--device", device]
        self._idle_s = idle_s
        self._questions: queue.Queue[tuple[dict[str, Any], float, Reply] | None] = queue.Queue()
        self._child: subprocess.Popen[str] | None = None
        self._asked = 0.0
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and the child; a question under way is not answered."""
        self._questions.put(None)
        self._end_child()
        self._thread.join(3)

    def take(self, payload: dict[str, Any], ends_s: float, reply: Reply) -> None:
        """Any thread. `reply` is called in the planner's thread, unless `ends_s` (of time.time) is over by then."""
        self._questions.put((payload, ends_s, reply))

    def _run(self) -> None:
        while True:
            try:
                question = self._questions.get(timeout=_TICK_S)
            except queue.Empty:
                if self._child is not None and time.monotonic() - self._asked > self._idle_s:
                    self._end_child()
                continue
            if question is None:
                self._end_child()
                return
            payload, ends_s, reply = question
            if time.time() < ends_s:
                reply(self._answer(payload))

    def _answer(self, payload: dict[str, Any]) -> dict[str, Any]:
        self._asked = time.monotonic()
        try:
            child = self._running_child()
            assert child.stdin is not None and child.stdout is not None  # noqa: S101 - asked for at the start
            child.stdin.write(json.dumps({**payload, "id": 0}) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
            said: dict[str, Any] = json.loads(line)
        except (OSError, ValueError) as error:
            logger.warning("the planner's child failed: %s", error)
            self._end_child()
            return {"error": _failed().as_dict()}
        return {key: value for key, value in said.items() if key not in ("event", "id")}

    def _running_child(self) -> subprocess.Popen[str]:
        """The child; made in this thread, whose end would end it too."""
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(
                self._command, env=child_env({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
                cwd=Path(__file__).resolve().parent.parent, preexec_fn=preparation(nice=5),
            )  # fmt: skip
        return self._child

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.wait()


def _failed() -> ColdframeError:
    return UnavailableError("The plan cannot be made just now.", hint="Change a setting to ask again.")
