"""Files at the edge, made on the spot: one row, one label, a hundred thousand labels, lines of a gigabyte."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ml.__main__ import main
from ml.data.rows import read_dataset
from ml.data.sniff import sniff
from ml.data.version import Recipe, build_version
from ml.errors import DataError
from tests.ml.data.test_cli_validate import ROOT
from tests.ml.running import Recorder, tiny_spec

LABELS = {"task": "classification", "prompt": "{text}", "completion": "{label}"}
TEXTS = {"task": "generation", "prompt": "{text}", "completion": "{label}"}
DRAWN = {"kind": "stratified", "validation": 0.1, "test": 0.1}
GIGABYTE = 1 << 30


def made(folder: Path, rows: list[dict[str, Any]], mapping: dict[str, str]) -> dict[str, Any]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return build_version(sniff(path, path.name), Recipe(mapping=mapping, splits=DRAWN), folder / "out")


def trained(folder: Path, models: Path) -> tuple[int, Recorder]:
    spec = folder / "spec.json"
    spec.write_text(json.dumps(tiny_spec(steps=2, dataset_sha256=_sha(folder)).as_dict()))
    emit: Any = Recorder()
    words = ["train", str(spec), "--models", str(models), "--dataset", str(folder / "out")]
    return main([*words, "--workdir", str(folder / "run"), "--device", "cpu"], emit=emit), emit


def _sha(folder: Path) -> str:
    sha256: str = json.loads((folder / "out" / "dataset.json").read_text())["sha256"]
    return sha256


def test_one_row_becomes_a_version_for_training_alone_and_trains(tmp_path: Path, tiny_models_dir: Path) -> None:
    report = made(tmp_path, [{"text": "The only one", "label": "an answer"}], TEXTS)
    assert report["splits"] == {"train": 1, "validation": 0, "test": 0}
    assert "one_row" in {warning["code"] for warning in report["warnings"]}
    code, emit = trained(tmp_path, tiny_models_dir)
    assert code == 0, emit.events[-1]


def test_one_label_is_warned_about_and_training_says_why_not(tmp_path: Path, tiny_models_dir: Path) -> None:
    report = made(tmp_path, [{"text": f"row {n}", "label": "calm"} for n in range(20)], LABELS)
    assert report["splits"] == {"train": 16, "validation": 2, "test": 2}
    assert "one_label" in {warning["code"] for warning in report["warnings"]}
    code, emit = trained(tmp_path, tiny_models_dir)
    error = emit.events[-1]["error"]
    assert (code, error["field"]) == (65, "labels")
    assert "at least two labels, got ['calm']" in error["message"]


def test_a_hundred_thousand_answers_are_labels_for_nobody_and_texts_for_everybody(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "label": f"answer {n}"} for n in range(100_000)]
    with pytest.raises(DataError, match="more than 2,000 different labels") as caught:
        made(tmp_path, rows, LABELS)
    assert (caught.value.code, "generation" in caught.value.hint) == ("many_labels", True)
    report = made(tmp_path, rows, TEXTS)
    assert sum(report["splits"].values()) == 100_000
    assert read_dataset(tmp_path / "out").labels == []


def _less_than_a_gigabyte() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTE - 1, GIGABYTE - 1))


def inspected(folder: Path, path: Path) -> dict[str, Any]:
    """The report of a child that looks at the file with less than a gigabyte of address space."""
    spec = {"kind": "inspect", "source_path": str(path), "filename": path.name}
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "ml", "validate", str(folder / "spec.json"), "--workdir", str(folder / "work")]
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **one_thread}, capture_output=True, preexec_fn=_less_than_a_gigabyte
    )
    assert done.returncode == 0, done.stderr[-500:]
    report: dict[str, Any] = json.loads((folder / "work" / "inspection.json").read_text())
    return report


@pytest.mark.parametrize(
    ("name", "head", "tail", "n_rows", "words"),
    [
        ("line.jsonl", b'{"text": "a"}\n{"text": "', b'"}\n{"text": "c"}\n', 2, "Line 2 is longer than 4 MB."),
        ("cell.csv", b'text\na\n"', b'"\nc\n', 1, "a line is longer than 4 MB"),
        ("list.json", b'[{"text": "a"}, {"text": "', b'"}]', 1, "Element 2 is longer than 4 MB or never ends."),
    ],
)
def test_a_line_of_a_gigabyte_is_named_and_never_in_memory(
    tmp_path: Path, name: str, head: bytes, tail: bytes, n_rows: int, words: str
) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(head)
        file.seek(GIGABYTE)  # A hole: it takes no room on the disk.
        file.write(tail)
    report = inspected(tmp_path, path)
    assert (report["n_rows"], report["n_problems"]) == (n_rows, 1)
    assert words in report["problems"][0]["message"]


def test_a_column_that_nests_a_hundred_thousand_deep_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    deep = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
    wide = '{"text": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}"
    path.write_text(f'{{"text": "a"}}\n{deep}\n{wide}\n{{"text": "b"}}\n')
    report = inspected(tmp_path, path)
    assert (report["n_rows"], [problem["row"] for problem in report["problems"]]) == (2, [2, 3])
    assert all("nested deeper than 32 levels" in problem["message"] for problem in report["problems"])


def test_marks_line_ends_and_poison_are_told_by_line_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    lines = [b'\xef\xbb\xbf{"text": "marked"}', b'{"text": NaN}', b'{"text": "\\ud800"}', b'{"text": -Infinity}',
             b'{"text": "\xff"}', b'{"text": "fine"}']  # fmt: skip
    path.write_bytes(b"\r\n".join(lines) + b"\r\n")
    report = inspected(tmp_path, path)
    assert [column["name"] for column in report["columns"]] == ["text"]
    assert (report["n_rows"], [problem["row"] for problem in report["problems"]]) == (2, [2, 3, 4, 5])
    said = " ".join(problem["message"] for problem in report["problems"])
    for words in ("NaN", "lone surrogate U+D800", "-Infinity", "byte 0xFF"):
        assert words in said
