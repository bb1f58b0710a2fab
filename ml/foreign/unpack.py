"""A zip from a stranger, unpacked into a folder: refused before anything is written when it is not what it should be.

Guarantees: the number of entries is read from the archive's end before the list itself; no entry leads outside, is a
link, is encrypted, is another archive or appears twice; no entry unfolds to more than MAX_RATIO times its size, nor all
of them to more than `max_bytes`, counted while writing and not taken from the archive's word. All files must lie in one
folder (or none), which becomes the target.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from pathlib import Path

from ml.errors import ArtifactError
from ml.files import staged_folder

MAX_ENTRIES = 256
MAX_LIST_BYTES = 1 << 20
MAX_RATIO = 200
"""JSON with long runs of equal lines reaches about 50."""
MAX_BYTES = 4 << 30
_CHUNK_BYTES = 1 << 20
_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, NotImplementedError, RuntimeError)
"""What zipfile raises for archives that are not as they should be."""
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


def unpack(archive: Path, into: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """Writes the entries of `archive` as the folder `into`, whole or not at all. Raises ArtifactError naming one."""
    _check_end(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _wanted(opened, max_bytes)
            with staged_folder(into) as staged:
                n_written = 0
                for name, entry in entries.items():
                    n_written += _write(opened, entry, staged / name, left=max_bytes - n_written)
    except _DAMAGE as error:
        raise ArtifactError(
            f"{archive.name} is not a sound zip archive: {str(error)[:120]}.",
            hint="Pack the folder again.",
            field="file",
        ) from error
    return into


def _check_end(archive: Path) -> None:
    """How many entries the archive says it has, and how long their list is, before zipfile reads that list."""
    n_bytes = archive.stat().st_size
    with archive.open("rb") as file:
        file.seek(max(0, n_bytes - 65_557))
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) < at + 22:
            raise ArtifactError(f"{archive.name} is not a zip archive.", hint="Zip the adapter's folder.", field="file")
        n_entries, list_bytes = struct.unpack("<HI", tail[at + 10 : at + 16])
        if at >= 20 and tail[at - 20 : at - 16] == _LOCATOR:
            file.seek(min(struct.unpack("<Q", tail[at - 12 : at - 4])[0], n_bytes))
            record = file.read(56)
            if len(record) < 56 or record[:4] != _END64:
                raise ArtifactError(f"{archive.name} is damaged: its end cannot be found.", field="file")
            n_entries, list_bytes = struct.unpack("<QQ", record[32:48])
    if n_entries > MAX_ENTRIES or list_bytes > MAX_LIST_BYTES:
        raise ArtifactError(
            f"{archive.name} lists {n_entries:,} entries in {list_bytes:,} bytes; at most {MAX_ENTRIES} are read.",
            hint="Zip only the adapter's folder.",
            field="file",
        )


def _wanted(opened: zipfile.ZipFile, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """File names and their entries, all from one folder."""
    files = [entry for entry in opened.infolist() if not _is_litter(entry)]
    for entry in files:
        _check_entry(entry)
    total = sum(entry.file_size for entry in files)
    if total > max_bytes:
        raise ArtifactError(f"The archive unfolds to {total:,} bytes; at most {max_bytes:,} are read.", field="file")
    files = [entry for entry in files if not entry.is_dir()]
    folders = {entry.filename.rpartition("/")[0] for entry in files}
    if len(folders) > 1:
        raise ArtifactError(
            f"The archive has files in several folders: {', '.join(sorted(repr(f)[:60] for f in folders)[:4])}.",
            hint="Zip one adapter's folder; checkpoints inside it are not needed.",
            field="file",
        )
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in files:
        name = entry.filename.rpartition("/")[2]
        if name in found:
            raise _refused(entry, "appears twice")
        found[name] = entry
    return found


def _is_litter(entry: zipfile.ZipInfo) -> bool:
    """What desktop systems add by themselves."""
    parts = entry.filename.split("/")
    return parts[0] == "__MACOSX" or parts[-1] in (".DS_Store", "Thumbs.db")


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    parts = name.rstrip("/").split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if "\0" in name or "\\" in name or ":" in name or len(name) > 400 or not name.isprintable():
        raise _refused(entry, "has an impossible name")
    if name.startswith("/") or any(part in ("", ".", "..") or part.startswith("..") for part in parts):
        raise _refused(entry, "leads outside the archive")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(entry, "is a link or a device")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(entry, "is packed in a way that is not read here")
    if entry.header_offset < 0:
        raise _refused(entry, "lies before the archive begins")
    if entry.flag_bits & 1:
        raise _refused(entry, "is encrypted")
    if name.lower().endswith(_ARCHIVES):
        raise _refused(entry, "is an archive inside the archive")
    if entry.file_size > MAX_RATIO * max(entry.compress_size, 1024):
        raise _refused(entry, f"unfolds from {entry.compress_size:,} to {entry.file_size:,} bytes")


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, *, left: int) -> int:
    allowed, n_written = min(left, entry.file_size), 0
    with opened.open(entry) as source, target.open("xb") as file:
        while piece := source.read(_CHUNK_BYTES):
            n_written += len(piece)
            if n_written > allowed:
                raise _refused(entry, "holds more than it says")
            file.write(piece)
    return n_written


def _refused(entry: zipfile.ZipInfo, what: str) -> ArtifactError:
    return ArtifactError(
        f"{entry.orig_filename[:80]!r} in the archive {what}.", hint="Zip the adapter's folder itself.", field="file"
    )
