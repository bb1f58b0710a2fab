"""Rows kept on the disk come back as they were, or count as absent."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ml import kept
from ml.errors import SpecError, StorageError
from ml.kept import Kept, NoRoom, Writer, keep, tell_progress
from tests.ml.running import Recorder

NO_ROOM = NoRoom(what="Numbers", hint="Use fewer.", field="numbers")
ROWS = [torch.arange(6.0).view(3, 2) + 10 * n for n in range(5)]


def kept_rows(
    folder: Path, identity: str = "mine", fill: Callable[[Writer], None] | None = None
) -> tuple[Kept, list[str]]:
    """What is kept in `folder`, and whether it was computed."""
    computed = []

    def fill_all(writer: Writer) -> None:
        computed.append("computed")
        for number in (3, 0, 4, 1, 2):
            writer.row("numbers", number, [writer.piece(ROWS[number])])

    found = keep(folder, identity={"of": identity}, n_bytes=100, fill=fill or fill_all, no_room=NO_ROOM)
    return found, computed


def test_rows_come_back_bit_by_bit_in_any_order(tmp_path: Path) -> None:
    found, _ = kept_rows(tmp_path / "kept")
    assert all(torch.equal(found.row("numbers", n), ROWS[n]) for n in (4, 0, 2))


def test_rows_over_many_shards_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_SHARD_BYTES", 40)
    found, _ = kept_rows(tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("shard-*"))) == 3
    assert all(torch.equal(found.row("numbers", n), ROWS[n]) for n in range(5))


def test_rows_are_computed_once_for_each_identity(tmp_path: Path) -> None:
    assert kept_rows(tmp_path / "kept")[1] == ["computed"]
    assert kept_rows(tmp_path / "kept")[1] == []
    assert kept_rows(tmp_path / "kept", identity="another")[1] == ["computed"]


def test_a_piece_may_belong_to_many_rows(tmp_path: Path) -> None:
    def fill(writer: Writer) -> None:
        first = writer.piece(ROWS[0])
        for number in (1, 2):
            writer.row("numbers", number, [first, writer.piece(ROWS[number])])

    found, _ = kept_rows(tmp_path / "kept", fill=fill)
    assert torch.equal(found.row("numbers", 2), torch.cat([ROWS[0], ROWS[2]]))


def test_half_precision_comes_back_as_it_is(tmp_path: Path) -> None:
    row = torch.randn(4, 3).bfloat16()

    def fill(writer: Writer) -> None:
        writer.row("numbers", 0, [writer.piece(row)])

    found, _ = kept_rows(tmp_path / "kept", fill=fill)
    assert torch.equal(found.row("numbers", 0), row)


@pytest.mark.parametrize("change", [{"schema": 9}, {"files": {}, "more": 1}, {"identity": None}])
def test_a_manifest_of_another_kind_counts_as_absent(change: dict[str, object], tmp_path: Path) -> None:
    kept_rows(tmp_path / "kept")
    path = tmp_path / "kept" / kept.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert kept_rows(tmp_path / "kept")[1] == ["computed"]


def test_a_disk_without_room_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(SpecError, match="Numbers takes up to") as caught:
        kept_rows(tmp_path / "kept")
    assert (caught.value.field, caught.value.hint) == ("numbers", "Use fewer.")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(writer: Writer) -> None:
        writer.piece(ROWS[0])
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        kept_rows(tmp_path / "kept", fill=fill)
    assert list(tmp_path.iterdir()) == []


def test_progress_of_many_rows_is_told_about_a_hundred_times() -> None:
    told = Recorder()
    for done in [*range(16, 100_000, 16), 100_000]:
        tell_progress(told, done, 100_000, 16, "counting")
    assert 90 <= len(told.events) <= 110
    assert told.events[-1]["done"] == 100_000
