"""The first look at a file: format, columns, suggestion; and rows as the model sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.backbone import load_backbone
from ml.data.inspection import inspect_file
from ml.data.lengths import load_tokenizer, token_lengths
from ml.data.mapping import check_mapping
from ml.data.preview import preview_rows
from ml.data.rows import read_dataset
from ml.errors import DataError, ModelError, SpecError
from ml.objectives import objective_for
from tests.ml.conftest import COLOURS, tiny_tokenizer
from tests.ml.running import tiny_spec
from tests.ml.tiny import save_tiny

Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    def _look(content: str | list[dict[str, Any]], name: str = "rows.jsonl") -> dict[str, Any]:
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        path = tmp_path / "upload"
        path.write_text(text, encoding="utf-8")
        return inspect_file(path, filename=name)

    return _look


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize(
    ("row", "kind", "task"),
    [
        ({"messages": TURNS}, "messages", "chat"),
        ({"conversations": SHARED}, "sharegpt", "chat"),
        ({"prompt": "How far?", "chosen": "Very far", "rejected": "No"}, "preference", "generation"),
        ({"question": "Who?", "context": "Ada wrote it.", "answers": {"text": ["Ada"], "answer_start": [0]}},
         "squad", "question_answering"),
        ({"question": "How far is it to the sea?", "answer": "So far that no short word could ever say it all"},
         "columns", "question_answering"),
        ({"text": "Once there was a bed under glass."}, "text", "generation"),
        ({"instruction": "Say x", "input": "", "output": "x, and more of it than any label would have said here"},
         "alpaca", "generation"),
        ({"prompt": "How far?", "completion": "Very far, so far that no label could say it"},
         "prompt_completion", "generation"),
        ({"text": "My lights went out.", "label": "outage"}, "text_label", "classification"),
        ({"frage": "Wie weit?", "antwort": "So weit, dass es kein kurzes Wort je sagen könnte"},
         "columns", "generation"),
    ],
)  # fmt: skip
def test_known_formats_are_recognised_and_their_mapping_works(
    look: Look, row: dict[str, Any], kind: str, task: str
) -> None:
    varied = {"output", "completion", "frage", "antwort", "answer", "question"}
    rows = [{key: f"{value} {i}" if key in varied else value for key, value in row.items()} for i in range(9)]
    report = look(rows)
    assert (report["recognised"], report["mapping"]["task"]) == (kind, task)
    check_mapping(report["mapping"], [column["name"] for column in report["columns"]])


def test_labels_are_named_in_the_suggested_prompt(look: Look) -> None:
    report = look([{"body": f"a longer text {i}", "queue": ["billing", "login"][i % 2]} for i in range(10)])
    assert report["mapping"]["completion"] == "{queue}"
    assert "Choose one of: billing, login." in report["mapping"]["prompt"]
    assert "{body}" in report["mapping"]["prompt"]


def test_a_split_column_is_found_by_its_values(look: Look) -> None:
    report = look([{"q": f"a question {i}", "a": "x", "part": ["train", "test"][i % 2]} for i in range(6)])
    assert report["split_column"] == "part"


def test_columns_are_counted_over_the_whole_file(look: Look) -> None:
    text = "text,label\n" + "".join(f"row {i},{'' if i == 7 else 'ab'[i % 2]}\n" for i in range(1000))
    report = look(text, "rows.csv")
    columns = {column["name"]: column for column in report["columns"]}
    assert (report["n_rows"], len(report["head"])) == (1000, 20)
    assert (columns["label"]["n_empty"], columns["label"]["n_distinct"]) == (1, 2)
    assert columns["text"]["n_distinct"] == 1000


def test_problems_are_counted_and_the_first_twenty_kept(look: Look) -> None:
    report = look('{"text": "x"}\n' + "{broken\n" * 50)
    assert (report["n_rows"], report["n_problems"], len(report["problems"])) == (1, 50, 20)
    assert report["problems"][0]["row"] == 2


def test_a_file_with_a_header_only_is_refused(look: Look) -> None:
    with pytest.raises(DataError, match="header but no rows"):
        look("text,label\n", "rows.csv")


def test_long_cells_are_shortened_in_what_is_kept(look: Look) -> None:
    report = look([{"text": "x" * 50_000}])
    assert len(report["head"][0]["values"]["text"]) == 8000


HEAD = [{"row": 4, "values": {"text": "My lights went out.", "label": "outage"}}]
MAPPING = {"task": "classification", "prompt": "Queue of: {text}", "completion": "{label}", "system": "Be short."}


def test_a_preview_shows_what_is_read_what_is_learnt_and_what_the_template_adds() -> None:
    preview = preview_rows(HEAD, MAPPING, ["text", "label"], tiny_tokenizer())
    row = preview["rows"][0]
    assert ("r", "My lights went out.") in row["pieces"]
    assert ("l", "outage") in row["pieces"]
    assert ("t", "Queue of: ") in row["pieces"]
    text = "".join(piece for _, piece in row["pieces"])
    assert text.startswith("<|im_start|>system\nBe short.<|im_end|>")
    assert text.endswith("<|im_start|>assistant\noutage<|im_end|>")
    assert row["n_prompt"] > 10
    assert row["n_completion"] >= 2


def test_a_preview_names_rows_that_cannot_be_used() -> None:
    head = [{"row": 9, "values": {"text": "", "label": "x"}}]
    preview = preview_rows(head, {**MAPPING, "prompt": "{text}"}, ["text", "label"], tiny_tokenizer())
    assert preview["rows"] == []
    assert preview["problems"][0]["row"] == 9


def test_a_preview_of_an_unknown_column_is_refused() -> None:
    with pytest.raises(SpecError, match="no column"):
        preview_rows(HEAD, {**MAPPING, "prompt": "{nope}"}, ["text", "label"], tiny_tokenizer())


def test_tokens_are_counted_as_training_will(tiny_models_dir: Path, tiny_dataset_dir: Path) -> None:
    lengths = token_lengths(tiny_dataset_dir, models_dir=tiny_models_dir, base="tiny-llama")
    assert (lengths["n"], lengths["base"]) == (50, "tiny-llama")
    assert 0 < lengths["median"] <= lengths["p95"] <= lengths["longest"]
    assert sum(lengths["bars"]) == 50


@pytest.mark.parametrize("shape", ["bert", "bart"])
def test_tokens_of_models_without_a_chat_are_counted_as_training_will(
    shape: str, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    backbone = load_backbone(save_tiny(tmp_path / shape, shape), labels=sorted(COLOURS))
    objective = objective_for(tiny_spec(), backbone, read_dataset(tiny_dataset_dir), 96)
    rows = [row for split in read_dataset(tiny_dataset_dir).splits.values() for row in split]
    longest = max(item.n_tokens for item in objective.encode(rows))
    assert token_lengths(tiny_dataset_dir, models_dir=tmp_path, base=shape)["longest"] == longest


@pytest.mark.parametrize("base", ["../tiny-llama", "nope", ".."])
def test_a_tokenizer_outside_the_models_folder_is_refused(tiny_models_dir: Path, base: str) -> None:
    with pytest.raises(ModelError):
        load_tokenizer(tiny_models_dir, base)
