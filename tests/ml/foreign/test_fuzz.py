"""Whatever the bytes, the readers of strangers' files end with a result or one of our errors, never with another."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from ml.errors import ArtifactError, ColdframeError
from ml.foreign.config import Layers, read_config
from ml.foreign.header import read_header
from ml.foreign.strict_json import strict_json
from ml.foreign.unpack import unpack

SOUND = save({"a": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.float16)}, metadata={"format": "pt"})
LAYERS = Layers(linear=frozenset({"model.q_proj"}), others=frozenset({"model"}))
edits = st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=0, max_size=6)), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    "peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules",
    "feedforward_modules", "num_virtual_tokens", "num_transformer_submodules", "encoder_hidden_size",
    "encoder_reparameterization_type", "prefix_projection", "modules_to_save", "init_lora_weights", "bias", "other",
)  # fmt: skip
KINDS = st.sampled_from(["LORA", "IA3", "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])


def _sound_zip() -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/adapter_config.json", "{}" * 40)
        archive.writestr("x/README.md", "# Card")
    return raw.getvalue()


ZIP = _sound_zip()


def edited(data: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    made = bytearray(data)
    for at, piece in changes:
        made[at : at + len(piece)] = piece
    return bytes(made)


@settings(max_examples=150, deadline=None)
@given(changes=edits, cut=st.integers(0, 400))
def test_an_edited_header_is_refused_or_one_that_the_library_reads_too(
    changes: list[tuple[int, bytes]], cut: int
) -> None:
    raw = edited(SOUND, changes)[: max(cut, 1) if cut < len(SOUND) // 2 else None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter_model.safetensors"
        path.write_bytes(raw)
        try:
            found = read_header(path)
        except ArtifactError:
            return
    library = load(raw)
    assert {name: tuple(tensor.shape) for name, tensor in library.items()} == {n: i.shape for n, i in found.items()}


@settings(max_examples=150, deadline=None)
@given(changes=edits)
def test_an_edited_zip_is_refused_or_stays_inside(changes: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "a.zip").write_bytes(edited(ZIP, changes))
        try:
            unpack(root / "a.zip", root / "out")
        except ArtifactError:
            assert not (root / "out").exists()
        assert {path.name for path in root.iterdir()} <= {"a.zip", "out"}


@settings(max_examples=200, deadline=None)
@given(kind=KINDS | values, rest=st.dictionaries(st.sampled_from(KEYS[1:]), values))
def test_any_configuration_is_taken_or_refused_with_words(kind: object, rest: dict[str, object]) -> None:
    try:
        read_config({"peft_type": kind, **rest}, layers=LAYERS, family="encoder")
    except ColdframeError as error:
        assert error.message


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=60) | st.text(alphabet='{}[]",:0eE-N \\u', max_size=60).map(str.encode))
def test_any_bytes_are_an_object_or_refused(raw: bytes) -> None:
    try:
        assert isinstance(strict_json(raw, "it"), dict)
    except ArtifactError as error:
        assert error.message
