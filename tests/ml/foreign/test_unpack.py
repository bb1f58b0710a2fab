"""SECURITY.md rows 1 and 2: bombs, slips and links are refused before they are unpacked."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from ml.errors import ArtifactError
from ml.foreign.unpack import unpack


def archive(folder: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    path = folder / "adapter.zip"
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in files.items():
            opened.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return path


def refused(path: Path, words: str, **limits: int) -> None:
    into = path.parent / "out"
    with pytest.raises(ArtifactError, match=words):
        unpack(path, into, **limits)
    assert not into.exists() and not list(path.parent.glob(".out*"))


@pytest.mark.parametrize("root", ["", "my-adapter/", "a/b/"])
def test_files_of_one_folder_are_unpacked(tmp_path: Path, root: str) -> None:
    path = archive(tmp_path, {f"{root}adapter_config.json": b"{}", f"{root}README.md": b"x", "__MACOSX/._x": b"y"})
    assert sorted(p.name for p in unpack(path, tmp_path / "out").iterdir()) == ["README.md", "adapter_config.json"]


@pytest.mark.parametrize(
    "name", ["../x.json", "a/../../x", "/etc/x", "a/./x", "C:/x", "a\\x", "..\\x", "...", "a//x", "x\n.json"]
)
def test_an_entry_that_leads_outside_is_named_and_refused(tmp_path: Path, name: str) -> None:
    refused(archive(tmp_path, {"adapter_config.json": b"{}", name: b"x"}), "leads outside|impossible name")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_device_is_refused(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "adapter.zip"
    entry = zipfile.ZipInfo("README.md")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(entry, "/etc/passwd")
    refused(path, "is a link or a device")


def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    refused(archive(tmp_path, {"a.json": bytes(50_000_000)}, method=zipfile.ZIP_DEFLATED), "unfolds from")


def test_too_many_bytes_are_refused_before_any_is_written(tmp_path: Path) -> None:
    refused(archive(tmp_path, {"a": bytes(600), "b": bytes(600)}), "unfolds to 1,200 bytes", max_bytes=1000)


def test_an_entry_that_hides_its_size_is_cut_off(tmp_path: Path) -> None:
    """The sizes in the archive's list are the sender's word; what is written is counted."""
    path = archive(tmp_path, {"a.json": bytes(5_000_000)}, method=zipfile.ZIP_DEFLATED)
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 100)
    path.write_bytes(raw)
    refused(path, "not a sound zip|holds more")


def test_a_million_entries_are_refused_before_their_list_is_read(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as opened:
        for i in range(400):
            opened.writestr(f"{i}", b"")
    path = tmp_path / "adapter.zip"
    path.write_bytes(data.getvalue())
    refused(path, "lists 400 entries")


def test_a_list_longer_than_its_count_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.zip"
    path.write_bytes(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 2_000_000_000, 0, 0))
    refused(path, "2,000,000,000 bytes")


def test_an_archive_in_the_archive_is_refused(tmp_path: Path) -> None:
    refused(archive(tmp_path, {"adapter_config.json": b"{}", "more.zip": b"PK"}), "archive inside the archive")


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.zip"
    with zipfile.ZipFile(path, "w") as opened, pytest.warns(UserWarning):
        opened.writestr("adapter_config.json", b"{}")
        opened.writestr("adapter_config.json", b"{ }")
    refused(path, "appears twice")


def test_several_folders_are_refused(tmp_path: Path) -> None:
    refused(archive(tmp_path, {"a/adapter_config.json": b"{}", "b/adapter_config.json": b"{}"}), "several folders")


@pytest.mark.parametrize("raw", [b"", b"hello", b"PK\x03\x04" + bytes(100), b"PK\x05\x06" + bytes(3)])
def test_what_is_no_zip_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "adapter.zip"
    path.write_bytes(raw)
    refused(path, "not a zip archive|not a sound zip")
