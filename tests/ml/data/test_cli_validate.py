"""`python -m ml validate`: events, exit codes, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def run_child(folder: Path, spec: dict[str, Any] | str, *more: str) -> tuple[int, list[dict[str, Any]]]:
    path = folder / "spec.json"
    path.write_text(spec if isinstance(spec, str) else json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "ml", "validate", str(path), "--workdir", str(folder / "work"), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def spec_for(folder: Path, text: str, **change: Any) -> dict[str, Any]:
    source = folder / "upload"
    source.write_text(text, encoding="utf-8", errors="surrogatepass")
    return {
        "kind": "validate", "source_path": str(source), "filename": "rows.jsonl", "seed": 3,
        "mapping": {"task": "classification", "prompt": "{text}", "completion": "{label}"},
        "splits": {"kind": "random", "validation": 0.2, "test": 0.2}, **change,
    }  # fmt: skip


GOOD = "".join(json.dumps({"text": f"row {i}", "label": "ab"[i % 2]}) + "\n" for i in range(20))


def test_a_good_file_ends_in_finished_with_its_folder(tmp_path: Path, tiny_models_dir: Path) -> None:
    spec = spec_for(tmp_path, GOOD, base="tiny-llama", dataset="x", upload=3, format="jsonl", source="uploads/x")
    code, events = run_child(tmp_path, spec, "--models", str(tiny_models_dir))
    assert code == 0
    assert events[-1]["event"] == "finished"
    assert events[-1]["metrics"] == {"n_rows": 20, "n_left_out": 0, "train": 12, "validation": 4, "test": 4}
    out = Path(events[-1]["out"])
    assert {path.name for path in out.iterdir()} == {
        "dataset.json", "keys.npy", "report.json", "train.jsonl", "validation.jsonl", "test.jsonl"
    }  # fmt: skip
    assert json.loads((out / "report.json").read_text())["tokens"]["n"] == 20


def test_bad_rows_exit_65_with_their_numbers(tmp_path: Path) -> None:
    code, events = run_child(tmp_path, spec_for(tmp_path, GOOD + '{"text": "x", "label": ""}\n{"text": NaN}\n'))
    assert code == 65
    error = events[-1]["error"]
    assert (events[-1]["event"], error["code"], error["n_problems"]) == ("failed", "bad_rows", 2)
    assert [problem["row"] for problem in error["problems"]] == [21, 22]


def test_a_wrong_column_exits_64_and_names_those_there_are(tmp_path: Path) -> None:
    mapping = {"task": "generation", "prompt": "{frage}", "completion": "{label}"}
    code, events = run_child(tmp_path, spec_for(tmp_path, GOOD, mapping=mapping))
    assert code == 64
    assert "frage" in events[-1]["error"]["message"]
    assert "text, label" in events[-1]["error"]["hint"]


def test_an_empty_file_exits_65(tmp_path: Path) -> None:
    code, events = run_child(tmp_path, spec_for(tmp_path, ""))
    assert (code, events[-1]["error"]["code"]) == (65, "empty_file")


def test_a_spec_that_is_none_exits_64(tmp_path: Path) -> None:
    assert run_child(tmp_path, "not json")[0] == 64
    assert run_child(tmp_path, spec_for(tmp_path, GOOD, kind="train"))[0] == 64
    assert run_child(tmp_path, spec_for(tmp_path, GOOD, seed=-1))[0] == 64


def test_an_upload_that_is_gone_exits_65(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, GOOD)
    (tmp_path / "upload").unlink()
    code, events = run_child(tmp_path, spec)
    assert (code, events[-1]["error"]["code"]) == (65, "file_missing")


def test_an_inspection_writes_what_it_saw(tmp_path: Path) -> None:
    code, events = run_child(tmp_path, spec_for(tmp_path, GOOD, kind="inspect"))
    assert code == 0
    report = json.loads(Path(events[-1]["out"]).read_text())
    assert (report["n_rows"], report["recognised"]) == (20, "text_label")
