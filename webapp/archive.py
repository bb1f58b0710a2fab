"""A folder of the storage as a zip that is made while it is sent.

Guarantees: at most some hundred kilobytes are held in memory, whatever the size of the files; only plain files whose
names stay inside the folder go in; entries carry a fixed time, so the same files give the same bytes. The files are
stored, not squeezed: weights do not get smaller. No check of hashes: that is `ml.artifact.verify`'s work.
"""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from asgiref.sync import sync_to_async

from ml.errors import ArtifactError

PIECE_BYTES = 1 << 18
_ZIP64_FROM = 1 << 31


class _Pipe:
    """A file that can only be written to; what was written is taken away again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        return None

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def files_of(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The named files. Raises ArtifactError for one that is missing or lies outside the folder."""
    root, found = folder.resolve(), {}
    for name in names:
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise ArtifactError(f"{name!r} is missing from the saved adapter.", hint="Train it again.", status=500)
        found[name] = path
    return found


def zip_pieces(files: dict[str, Path], *, root: str) -> Iterator[bytes]:
    """The zip's bytes, piece by piece; every file lies in the folder `root`."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, path in files.items():
            entry = zipfile.ZipInfo(f"{root}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            is_large = path.stat().st_size >= _ZIP64_FROM
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=is_large) as target:
                while piece := source.read(PIECE_BYTES):
                    target.write(piece)
                    yield pipe.take()
    yield pipe.take()


async def azip_pieces(files: dict[str, Path], *, root: str) -> AsyncIterator[bytes]:
    """`zip_pieces` for an ASGI response: the disk is read in a thread, one piece at a time."""
    pieces = zip_pieces(files, root=root)
    following = sync_to_async(lambda: next(pieces, None), thread_sensitive=False)
    while (piece := await following()) is not None:
        yield piece
