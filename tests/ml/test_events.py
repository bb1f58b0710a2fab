"""Event lines are valid JSON, whatever the numbers."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys

from ml.events import Emitter


def test_numbers_that_are_not_finite_become_null() -> None:
    stream = io.StringIO()
    Emitter(stream)("eval", metrics={"loss": math.nan, "perplexity": math.inf}, interval=(0.5, -math.inf))
    assert json.loads(stream.getvalue()) == {
        "event": "eval",
        "metrics": {"loss": None, "perplexity": None},
        "interval": [0.5, None],
    }


def test_one_event_is_one_line() -> None:
    stream = io.StringIO()
    Emitter(stream)("phase", text="two\nlines\u2028three")
    assert stream.getvalue().count("\n") == 1


def test_what_libraries_print_does_not_reach_the_events() -> None:
    script = "from ml.events import claim_stdout as c; e = c(); print('noise'); e('phase', text='é'); assert c() is e"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == '{"event": "phase", "text": "é"}\n'
    assert done.stderr == "noise\n"
