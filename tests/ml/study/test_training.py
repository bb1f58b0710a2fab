"""One training of a study: paused at a step, stopped at any moment, and gone on with as if neither had happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml.cli_study import long_lived
from ml.data.rows import Dataset, read_dataset
from ml.looks import Looks
from ml.study.base import Base
from ml.study.drawing import drawn
from ml.study.training import Interrupted
from tests.ml.study.studying import Studying, advance, small_spec


@pytest.fixture(scope="module", autouse=True)
def as_in_a_study() -> Iterator[None]:
    """Searches for garbage pass over what is loaded."""
    with long_lived():
        yield


@pytest.fixture(scope="module")
def rows(studying: Studying) -> Dataset:
    return drawn(read_dataset(studying.datasets["classification"]), small_spec())


@pytest.fixture
def base(study_models: Path, rows: Dataset) -> Base:
    return Base(study_models / "llama", rows, device="cpu")


def test_a_paused_training_is_gone_on_with_as_if_it_had_never_paused(base: Base, rows: Dataset, tmp_path: Path) -> None:
    whole = advance(base, "lora", rows, tmp_path / "whole", eval_every=1)
    first = advance(base, "lora", rows, tmp_path / "parts", to=1, eval_every=1)
    assert [look.step for look in first.looks] == [1]
    assert first.manifest is None
    second = advance(base, "lora", rows, tmp_path / "parts", eval_every=1)
    assert second.looks == whole.looks
    assert second.manifest == whole.manifest


def stops_in_the_look_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Asked to stop while the validation rows are measured after `step`."""
    measure, asked = Looks._measure, []

    def measuring(self: Any, at: int, *args: Any) -> Any:
        asked.extend([True] if at == step else [])
        return measure(self, at, *args)

    monkeypatch.setattr(Looks, "_measure", measuring)
    return lambda: bool(asked)


@pytest.mark.parametrize(("to", "step"), [(1, 1), (2, 1), (2, 2)])
def test_stopped_while_it_is_measured_it_is_interrupted_and_goes_on(
    to: int, step: int, base: Base, rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop between the last step and the look at it passed for the end: the look was missing, the artifact too, and
    the technique was kept as failed."""
    whole = advance(base, "lora", rows, tmp_path / "whole", to=to, eval_every=1)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop = stops_in_the_look_at(step, patch)
        advance(base, "lora", rows, tmp_path / "parts", to=to, should_stop=stop, eval_every=1)
    again = advance(base, "lora", rows, tmp_path / "parts", to=to, eval_every=1)
    assert (again.looks, again.manifest) == (whole.looks, whole.manifest)


def test_what_it_took_is_counted_over_interruptions(base: Base, rows: Dataset, tmp_path: Path) -> None:
    """Only the last process's seconds and memory stood in the report."""
    first = advance(base, "lora", rows, tmp_path, to=1)
    second = advance(base, "lora", rows, tmp_path)
    third = advance(base, "lora", rows, tmp_path)
    assert first.seconds < second.seconds < third.seconds
    assert third.peak_bytes >= second.peak_bytes >= first.peak_bytes > base.held_bytes(first.spec)


def test_a_record_of_what_it_took_that_is_damaged_counts_as_none(base: Base, rows: Dataset, tmp_path: Path) -> None:
    advance(base, "lora", rows, tmp_path, to=1)
    (tmp_path / "lora" / "took.json").write_text("{", encoding="utf-8")
    assert advance(base, "lora", rows, tmp_path).manifest is not None


def test_kept_activations_are_found_where_the_work_folder_is_named_from_here(
    base: Base, rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work folder that was given relative to the current one made links to nowhere, and heads failed."""
    monkeypatch.chdir(tmp_path)
    assert advance(base, "output_layers", rows, Path("here")).manifest is not None
    assert any((tmp_path / "here" / "cache" / "output_layers").iterdir())


def test_the_validation_rows_may_be_none(base: Base, rows: Dataset, tmp_path: Path) -> None:
    bare = Dataset(**{**vars(rows), "splits": {**rows.splits, "validation": []}})
    found = advance(base, "lora", bare, tmp_path)
    assert found.manifest is not None
    assert (found.looks, found.kept_step) == ([], 2)
