"""Files that outlive a request, by key: `datasets/<sha>`, `artifacts/<sha>`, `uploads/<uuid>`, `documents/<sha>`.

In a local folder (settings.STORAGE_DIR), or with STORAGE_URL=s3://bucket/prefix in an object store with that folder as
a cache. Guarantees: a folder appears whole or not at all, locally (staged beside it, fsynced, renamed) and remotely (an
index naming every file is written last, and read first); a key never leads outside the folder. Content is
immutable: putting a key that exists keeps what is there.
Does not limit sizes or look at content; callers do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile, File
from django.core.files.storage import Storage

from ml.errors import DataError, NotFoundError, UnavailableError

INDEX = ".index.json"
"""Remote only: the names of a folder's files, written when all of them are there."""
CHUNK_BYTES = 1 << 20
_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def check_key(key: str) -> str:
    """`key` itself. Raises DataError for anything but plain relative paths."""
    parts = key.split("/") if isinstance(key, str) else []
    if not parts or not all(_SAFE_PART.fullmatch(part) for part in parts) or len(parts) > 8:
        raise DataError(
            f"{str(key)[:80]!r} is not a storage key.",
            hint="Keys are relative paths of letters, digits, dots, dashes and underscores, such as datasets/<sha256>.",
        )
    return key


def root() -> Path:
    return Path(settings.STORAGE_DIR)


def path_of(key: str) -> Path:
    """The local path of a file or folder; fetched first where storage is remote. Raises NotFoundError."""
    local = root() / check_key(key)
    if not local.exists() and (remote := remote_of(settings.STORAGE_URL)) is not None:
        _fetch(remote, key, local)
    if not local.exists():
        raise NotFoundError(f"There is nothing stored as {key}.", hint="It may have been deleted.")
    return local


def exists(key: str) -> bool:
    if (root() / check_key(key)).exists():
        return True
    remote = remote_of(settings.STORAGE_URL)
    if remote is None:
        return False
    with _remote_errors("look up", key):
        return remote.exists(key) or remote.exists(f"{key}/{INDEX}")


def put_folder(local: Path, key: str) -> Path:
    """Keeps a copy of a folder under `key`; returns its path. The source is left alone; links in it are refused."""
    files = sorted(_files_of(local))
    target = root() / check_key(key)
    if not target.exists():
        with _staged(target) as stage:
            for name in files:
                _copy(local / name, stage / name)
    if (remote := remote_of(settings.STORAGE_URL)) is not None:
        with _remote_errors("store", key):
            if not remote.exists(f"{key}/{INDEX}"):
                for name in files:
                    _upload(remote, f"{key}/{name.as_posix()}", target / name)
                listing = json.dumps([name.as_posix() for name in files])
                remote.save(f"{key}/{INDEX}", ContentFile(listing.encode()))
    return target


def put_file(fileobj: IO[bytes], key: str) -> Path:
    """Keeps what is left to read of `fileobj` under `key`, a chunk at a time; returns its path."""
    target = root() / check_key(key)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with draft.open("wb") as file:
                shutil.copyfileobj(fileobj, file, CHUNK_BYTES)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(target.parent)
    if (remote := remote_of(settings.STORAGE_URL)) is not None:
        with _remote_errors("store", key):
            if not remote.exists(key):
                _upload(remote, key, target)
    return target


def delete(key: str) -> None:
    """Removes a file or folder; nothing happens when there is none."""
    local = root() / check_key(key)
    if (remote := remote_of(settings.STORAGE_URL)) is not None:
        with _remote_errors("delete", key):
            names = _index(remote, key)
            for name in (f"{key}/{INDEX}", *(f"{key}/{name}" for name in names)) if names else (key,):
                remote.delete(name)
    if local.is_dir():
        gone = local.with_name(f".{local.name}.{uuid.uuid4().hex}")
        local.rename(gone)
        shutil.rmtree(gone)
    else:
        local.unlink(missing_ok=True)


@lru_cache(maxsize=4)
def remote_of(url: str) -> Storage | None:
    """The object store behind STORAGE_URL; None when everything is local."""
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise ImproperlyConfigured(f"STORAGE_URL must be empty or s3://bucket/prefix, got {url!r}.")
    from storages.backends.s3 import S3Storage

    # Endpoint and credentials come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID …), as boto3 documents.
    return S3Storage(bucket_name=parts.netloc, location=parts.path.strip("/"), file_overwrite=True, default_acl=None)


def _files_of(folder: Path) -> Iterator[Path]:
    """Names of the regular files below `folder`."""
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder.name} to store.")
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise DataError(f"{path.name} is a link.", hint="Only plain files are stored.")
        if path.is_file():
            name = path.relative_to(folder)
            check_key(name.as_posix())
            yield name


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes it when the block ends well; if another was first, that one stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    stage.mkdir()
    try:
        yield stage
        for folder in (stage, *(path for path in stage.rglob("*") if path.is_dir())):
            _sync_folder(folder)
        try:
            stage.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, CHUNK_BYTES)
        write.flush()
        os.fsync(write.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _upload(remote: Storage, key: str, local: Path) -> None:
    with local.open("rb") as file:
        remote.save(key, File(file))


def _index(remote: Storage, key: str) -> list[str]:
    """The files of a remote folder; empty when `key` is no folder, or one that was never finished."""
    if not remote.exists(f"{key}/{INDEX}"):
        return []
    with remote.open(f"{key}/{INDEX}") as file:
        names: list[str] = json.loads(file.read())
    return [name for name in names if check_key(name) and ".." not in PurePosixPath(name).parts]


def _fetch(remote: Storage, key: str, local: Path) -> None:
    with _remote_errors("fetch", key):
        if names := _index(remote, key):
            with _staged(local) as stage:
                for name in names:
                    with remote.open(f"{key}/{name}") as file:
                        _write(file, stage / name)
        elif remote.exists(key):
            draft = local.with_name(f".{local.name}.{uuid.uuid4().hex}")
            try:
                with remote.open(key) as file:
                    _write(file, draft)
                draft.replace(local)
            finally:
                draft.unlink(missing_ok=True)


def _write(source: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for chunk in iter(lambda: source.read(CHUNK_BYTES), b""):
            file.write(chunk)


@contextmanager
def _remote_errors(doing: str, key: str) -> Iterator[None]:
    """The object store's own errors become one that says what failed; nothing of the credentials is in it."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise UnavailableError(
            f"The object store could not {doing} {key} ({type(error).__name__}).",
            hint="Check STORAGE_URL, the credentials and the network of this machine.",
        ) from error


def remove_leftovers(*, older_than_s: float, now: float) -> int:
    """Deletes staging folders and drafts that a crash left behind; returns how many."""
    n_removed = 0
    for path in root().glob("*/.*"):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > older_than_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                n_removed += 1
    return n_removed
