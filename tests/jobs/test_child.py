"""The child process: its group, its end with its parent, its lines, its lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from jobs import devices
from jobs.child import LONGEST_LINE_BYTES, Child, Line, child_env
from tests.jobs.processes import is_alive

ROOT = Path(__file__).resolve().parents[2]


def started(code: str, tmp_path: Path) -> Child:
    return Child([sys.executable, "-S", "-E", "-c", code], cwd=tmp_path, env=child_env(), nice=5)


def everything(child: Child) -> list[Line]:
    lines: list[Line] = []
    while not child.is_drained():
        lines += child.read(timeout_s=0.1)
    return lines


def group_nice(pid: int) -> int | None:
    """How far the session stands back; None where Linux does not group processes by session."""
    try:
        text = Path(f"/proc/{pid}/autogroup").read_text()
    except OSError:
        return None
    return int(text.rpartition(" ")[2]) if text.strip() else None


def test_it_is_niced_and_leads_a_session_of_its_own_that_is_niced_as_well(tmp_path: Path) -> None:
    own = group_nice(os.getpid())
    child = started("import time; print('up', flush=True); time.sleep(60)", tmp_path)
    while not child.read(timeout_s=0.1):
        pass
    process = psutil.Process(child.pid)
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0) and process.nice() == psutil.Process().nice() + 5
    assert os.getsid(child.pid) == child.pid and group_nice(child.pid) in (5, None)
    assert group_nice(os.getpid()) == own
    assert child.close() == -signal.SIGKILL


def test_events_are_told_from_chatter_and_a_last_line_without_end_counts(tmp_path: Path) -> None:
    code = "print('{\"event\": \"phase\", \"text\": \"x\"}'); print('[1]'); print('not json', end='')"
    child = started(code, tmp_path)
    lines = everything(child)
    assert lines == [
        ("event", {"event": "phase", "text": "x"}), ("log", {"text": "[1]"}), ("log", {"text": "not json"})
    ]  # fmt: skip
    assert child.close() == 0


def test_a_line_without_end_cannot_fill_the_memory(tmp_path: Path) -> None:
    child = started(f"import sys; sys.stdout.write('x' * {LONGEST_LINE_BYTES + 100_000})", tmp_path)
    texts = [data["text"] for _, data in everything(child)]
    assert texts[0].endswith("(line cut)") and max(map(len, texts)) <= 2000
    child.close()


def test_what_the_child_started_ends_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True)"
    child = started(code, tmp_path)
    helper = int(everything(child)[0][1]["text"])
    child.close()
    deadline = time.monotonic() + 20
    while is_alive(helper):
        assert time.monotonic() < deadline
        time.sleep(0.01)


PARENT = """
import sys, time
from pathlib import Path
from jobs.child import Child, child_env
from jobs.devices import free_device
with free_device(Path(sys.argv[1]), is_stopping=lambda: False, on_wait=lambda: None) as device:
    child = Child(["sleep", "60"], cwd=Path("."), env=child_env(), pass_fds=[device.lock])
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_it_dies_with_a_killed_parent_and_only_then_the_device_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    waits = iter(range(10_000))
    with devices.free_device(tmp_path, is_stopping=lambda: next(waits) > 0, on_wait=lambda: None) as device:
        assert device is None, "the device is taken while the parent lives"
    parent.kill()
    parent.wait()
    told: list[int] = []
    with devices.free_device(tmp_path, is_stopping=lambda: False, on_wait=lambda: told.append(1)) as device:
        assert device is not None
        assert not is_alive(child)
