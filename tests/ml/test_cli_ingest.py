"""The ingest command: bad documents never stop the others, and a second attempt goes on where the first one was."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from ml import cli_ingest
from ml.errors import SpecError
from tests.ml.retrieval.conftest import save_tiny_bert
from tests.ml.retrieval.make_pdf import encrypted_pdf, pdf_with


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_bert(folder / "tiny-bert")
    return folder


class Ingest:
    """Runs the command in this process and keeps what it said."""

    def __init__(self, folder: Path, models: Path, files: dict[str, bytes]) -> None:
        self.folder, self.models, self.events = folder, models, []
        documents = []
        for number, (name, data) in enumerate(files.items(), start=1):
            path = folder / f"source-{number}"
            path.write_bytes(data)
            documents.append({"id": number, "source_path": str(path), "filename": name})
        self.spec: dict[str, Any] = {
            "kind": "ingest", "collection_id": 1, "chunk": {"size": 30, "overlap": 5}, "embedder": "tiny-bert",
            "documents": documents,
        }  # fmt: skip

    def __call__(self) -> int:
        self.events: list[dict[str, Any]] = []
        path = self.folder / "spec.json"
        path.write_text(json.dumps(self.spec))

        def emit(event: str, **values: Any) -> None:
            self.events.append({"event": event, **values})

        return cli_ingest.run(
            Namespace(spec=path, workdir=self.folder, models=self.models, device="cpu", threads=1, emit=emit)
        )

    def said(self, event: str) -> list[dict[str, Any]]:
        return [values for values in self.events if values["event"] == event]

    def out(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "out" / f"{number}.json").read_text())
        return found


def test_a_bad_document_does_not_stop_the_others(tmp_path: Path, models: Path) -> None:
    trees, locked, rent = b"# Trees\n\nThe tree on the line. " * 9, encrypted_pdf("x"), pdf_with(["The rent."])
    ingest = Ingest(tmp_path, models, {"a.md": trees, "b.pdf": locked, "c.pdf": rent})
    assert ingest() == 0
    assert ingest.out(2)["error"]["code"] == "encrypted"
    assert ingest.out(3)["chunks"][0] | {"n_tokens": 0} == {
        "number": 1, "text": "The rent.", "start": 0, "end": 9, "page": 1, "n_tokens": 0
    }  # fmt: skip
    states = {e["id"]: e["state"] for e in ingest.said("document")}
    assert states == {1: "live", 2: "refused", 3: "live"}
    assert ingest.said("finished")[0]["metrics"]["n_refused"] == 1


def test_there_is_one_vector_per_chunk_under_the_documents_id(tmp_path: Path, models: Path) -> None:
    ingest = Ingest(tmp_path, models, {"a.txt": b"The court and the neighbour. " * 20, "b.txt": b"Rent."})
    ingest()
    vectors = load_file(tmp_path / "out" / "vectors.safetensors")
    assert {name: len(tensor) for name, tensor in vectors.items()} == {
        str(number): len(ingest.out(number)["chunks"]) for number in (1, 2)
    }


def test_a_second_attempt_keeps_what_the_first_one_finished(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = Ingest(tmp_path, models, {"a.txt": b"The tree.", "b.txt": b"The line."})
    read = cli_ingest.read_document
    seen: list[str] = []

    def stopped_at_b(path: Path, *, filename: str) -> Any:
        seen.append(filename)
        if filename == "b.txt" and seen.count("b.txt") == 1:
            raise cli_ingest._StopError
        return read(path, filename=filename)

    monkeypatch.setattr(cli_ingest, "read_document", stopped_at_b)
    assert ingest() == 75
    assert not (tmp_path / "out" / "vectors.safetensors").exists()
    assert ingest() == 0
    assert seen == ["a.txt", "b.txt", "b.txt"]
    assert set(load_file(tmp_path / "out" / "vectors.safetensors")) == {"1", "2"}


def test_a_wrong_spec_names_the_field(tmp_path: Path, models: Path) -> None:
    ingest = Ingest(tmp_path, models, {})
    for change, field in (
        ({"chunk": {"size": 900, "overlap": 0}}, "chunk_size"), ({"chunk": {}}, "chunk"), ({"colour": 1}, "colour"),
        ({"documents": [{"id": "1"}]}, "documents"), ({"chunk": {"size": 100, "overlap": 0}}, "chunk_size"),
    ):  # fmt: skip
        good, ingest.spec = ingest.spec, ingest.spec | change
        with pytest.raises(SpecError) as caught:
            ingest()
        assert caught.value.field == field
        ingest.spec = good
