"""SECURITY.md row 10: a safetensors header is refused by our own reader before any library opens the file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ml.errors import ArtifactError
from ml.foreign.header import MAX_HEADER_BYTES, read_header


def written(folder: Path, header: Any, *, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "adapter_model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(begin: int, end: int, *, dtype: str = "F32", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def test_a_sound_file_is_read_as_it_is(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    found = read_header(tmp_path / "x.safetensors")
    assert {name: (info.dtype, info.shape) for name, info in found.items()} == {
        "a": ("F32", (2, 3)), "b": ("BF16", (4,))
    }  # fmt: skip


def test_a_header_of_a_hundred_megabytes_is_never_read(tmp_path: Path) -> None:
    """The file is sparse: reading its header would take 100 MB of memory."""
    path = written(tmp_path, b"{}", length=100_000_000)
    with path.open("r+b") as file:
        file.truncate(100_000_100)
    with pytest.raises(ArtifactError, match=f"claims 100,000,000 bytes; at most {MAX_HEADER_BYTES:,}"):
        read_header(path)


def test_a_million_tensors_are_refused(tmp_path: Path) -> None:
    header = {f"{i:x}": entry(0, 0, shape=[0]) for i in range(100_000)}
    with pytest.raises(ArtifactError, match=r"names 100,000 tensors; at most 50,000|header claims"):
        read_header(written(tmp_path, header))


@pytest.mark.parametrize(
    ("header", "n_data", "words"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "overlaps"),
        ({"a": entry(0, 8), "b": entry(12, 16)}, 16, "leaves a gap"),
        ({"a": entry(0, 8)}, 4, "take 8 bytes, the file holds 4"),
        ({"a": entry(0, 8)}, 800, "take 8 bytes, the file holds 800"),
        ({"a": entry(0, 8, shape=[3])}, 8, "takes 12 bytes, its offsets say 8"),
        ({"a": entry(0, 8, shape=[2**40, 2**40])}, 8, "offsets say 8"),
        ({"a": entry(0, 8, dtype="PICKLE")}, 8, "unknown element type"),
        ({"a": entry(0, 8, shape=[-2])}, 8, "impossible shape"),
        ({"a": entry(0, 8, shape=[True, 2])}, 8, "impossible shape"),
        ({"a": entry(0, 8, shape=[1] * 9)}, 8, "impossible shape"),
        ({"a": {**entry(0, 8), "data_offsets": [8, 0]}}, 8, "impossible offsets"),
        ({"a": {**entry(0, 8), "data_offsets": [0, 1e400]}}, 8, "not a JSON number"),
        ({"a": {**entry(0, 8), "more": 1}}, 8, "nothing else"),
        ({"a\n": entry(0, 8)}, 8, "impossible name"),
        ({"a": []}, 0, "nothing else"),
        ([1], 0, "not an object"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, n_data: int, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        read_header(written(tmp_path, header, data=bytes(n_data)))


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    one = json.dumps(entry(0, 4))
    with pytest.raises(ArtifactError, match="stands in it twice"):
        read_header(written(tmp_path, f'{{"a": {one}, "a": {one}}}'.encode(), data=bytes(4)))


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nested too deeply"):
        read_header(written(tmp_path, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (b"GGUF\x03\x00\x00\x00" * 4, "GGUF"), (b"PK\x03\x04\x14\x00\x08\x08" * 4, "PyTorch"),
        (b"\x80\x02}q\x00X\x01\x00", "pickle"),
    ],
)  # fmt: skip
def test_another_kind_under_this_name_is_called_by_its_name(tmp_path: Path, begin: bytes, words: str) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(begin)
    with pytest.raises(ArtifactError, match=words):
        read_header(path)


@pytest.mark.parametrize("raw", [b"", b"\x05", bytes(8)])
def test_a_file_without_a_header_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ArtifactError, match="no header"):
        read_header(path)
