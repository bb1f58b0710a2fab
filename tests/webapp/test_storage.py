"""Stored files and folders, local and remote."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import Storage

from ml.errors import DataError, NotFoundError, UnavailableError
from webapp import storage

KEY = "artifacts/0123abcd"


class ObjectStore(Storage):
    """As object stores are: a flat map of names, without folders."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def _save(self, name: str, content: Any) -> str:
        self.objects[name] = content.read()
        return name

    def _open(self, name: str, mode: str = "rb") -> ContentFile:
        return ContentFile(self.objects[name])

    def exists(self, name: str) -> bool:
        return name in self.objects

    def delete(self, name: str) -> None:
        self.objects.pop(name, None)


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.STORAGE_DIR, settings.STORAGE_URL = tmp_path / "storage", ""
    return settings.STORAGE_DIR


@pytest.fixture
def remote(settings: Any, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    store = ObjectStore()
    settings.STORAGE_URL = "s3://bucket/prefix"
    monkeypatch.setattr(storage, "remote_of", lambda url: store)
    return store


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    (made / "nested").mkdir(parents=True)
    (made / "manifest.json").write_text("{}")
    (made / "nested" / "weights.safetensors").write_bytes(b"\0\1")
    return made


def on_another_machine(folder: Path) -> None:
    """The same store seen by a machine whose cache is empty."""
    folder.rename(folder.with_name("elsewhere"))


def test_a_stored_folder_comes_back_whole(adapter: Path) -> None:
    storage.put_folder(adapter, KEY)
    assert (storage.path_of(KEY) / "manifest.json").read_text() == "{}"
    assert (storage.path_of(KEY) / "nested" / "weights.safetensors").read_bytes() == b"\0\1"


def test_the_source_folder_is_left_alone(adapter: Path) -> None:
    storage.put_folder(adapter, KEY)
    assert (adapter / "manifest.json").is_file()


def test_a_stored_folder_is_not_overwritten(adapter: Path) -> None:
    storage.put_folder(adapter, KEY)
    (adapter / "manifest.json").write_text("changed")
    storage.put_folder(adapter, KEY)
    assert (storage.path_of(KEY) / "manifest.json").read_text() == "{}"


def test_a_stored_file_comes_back() -> None:
    storage.put_file(io.BytesIO(b"text"), "documents/ab")
    assert storage.path_of("documents/ab").read_bytes() == b"text"
    assert storage.exists("documents/ab")


@pytest.mark.parametrize(
    "key",
    ["../x", "/etc/passwd", "a/../b", "a//b", "", "a\0b", ".hidden", "a/.hidden", "a\\b", "a/b\n", "x" * 201],
)
def test_a_key_that_is_no_plain_relative_path_is_refused(key: str) -> None:
    for use in (storage.path_of, storage.exists, storage.delete):
        with pytest.raises(DataError, match="is not a storage key"):
            use(key)


def test_a_missing_key_is_named(adapter: Path) -> None:
    with pytest.raises(NotFoundError, match="artifacts/0123abcd"):
        storage.path_of(KEY)


def test_a_folder_with_a_link_is_refused_and_nothing_is_left(adapter: Path, folder: Path) -> None:
    (adapter / "link").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="link is a link"):
        storage.put_folder(adapter, KEY)
    assert not list(folder.rglob("*"))


def test_a_write_that_fails_leaves_nothing(folder: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        storage.put_file(Broken(), "uploads/one")
    assert not storage.exists("uploads/one")
    assert not list((folder / "uploads").iterdir())


def test_deleting_removes_files_and_folders_and_tolerates_absence(adapter: Path) -> None:
    storage.put_folder(adapter, KEY)
    storage.put_file(io.BytesIO(b"x"), "uploads/one")
    for key in (KEY, "uploads/one", "uploads/never"):
        storage.delete(key)
        assert not storage.exists(key)


def test_old_leftovers_of_a_crash_are_removed_and_young_ones_kept(folder: Path) -> None:
    (folder / "artifacts" / ".half.123").mkdir(parents=True)
    assert storage.remove_leftovers(older_than_s=3600, now=time.time()) == 0
    assert storage.remove_leftovers(older_than_s=3600, now=time.time() + 7200) == 1
    assert not list((folder / "artifacts").iterdir())


def test_a_folder_stored_remotely_is_fetched_on_another_machine(
    adapter: Path, folder: Path, remote: ObjectStore
) -> None:
    storage.put_folder(adapter, KEY)
    on_another_machine(folder)
    assert storage.exists(KEY)
    assert (storage.path_of(KEY) / "nested" / "weights.safetensors").read_bytes() == b"\0\1"


def test_a_file_stored_remotely_is_fetched_on_another_machine(folder: Path, remote: ObjectStore) -> None:
    storage.put_file(io.BytesIO(b"text"), "documents/ab")
    on_another_machine(folder)
    assert storage.path_of("documents/ab").read_bytes() == b"text"


def test_a_folder_whose_upload_was_cut_off_does_not_exist_elsewhere(
    adapter: Path, folder: Path, remote: ObjectStore
) -> None:
    storage.put_folder(adapter, KEY)
    remote.delete(f"{KEY}/{storage.INDEX}")
    on_another_machine(folder)
    assert not storage.exists(KEY)
    with pytest.raises(NotFoundError):
        storage.path_of(KEY)


def test_deleting_reaches_the_remote_files(adapter: Path, folder: Path, remote: ObjectStore) -> None:
    storage.put_folder(adapter, KEY)
    storage.delete(KEY)
    assert not storage.exists(KEY)
    assert remote.objects == {}


def test_an_object_store_that_does_not_answer_is_said_plainly(
    remote: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> bool:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    monkeypatch.setattr(remote, "exists", down)
    with pytest.raises(UnavailableError, match="could not fetch artifacts/0123abcd"):
        storage.path_of(KEY)


def test_a_storage_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="ftp://x"):
        storage.remote_of("ftp://x")


def test_an_s3_url_names_bucket_and_prefix() -> None:
    remote: Any = storage.remote_of("s3://bucket/some/prefix")
    assert (remote.bucket_name, remote.location) == ("bucket", "some/prefix")
