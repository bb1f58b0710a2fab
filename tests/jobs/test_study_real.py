"""A whole study under its supervisor with the real child on a tiny model: run, promoted, extended, stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.commands import workdir_of
from jobs.supervise import supervise
from tests.ml.tiny import save_tiny_llama
from tests.webapp.studying import data_version, submitted
from webapp import storage
from webapp.models import AdapterVersion, PromptVersion, Run, Study, Team
from webapp.selectors.studies import page_of, study_of
from webapp.selectors.study_rows import disagreements, report_of
from webapp.services.studies import study_extend
from webapp.services.study_promotions import study_promote

GIVEN: dict[str, Any] = {
    "base": "tiny-llama", "techniques": ["zero_shot", "few_shot", "prompt_tuning"], "steps": 4, "batch_size": 2,
    "n_tries": 2, "n_examples": 2, "max_length": 128, "valid_rows": 8, "test_rows": 12,
}  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_a_real_study_goes_from_its_form_into_the_library(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR, settings.RUNS_DIR = tmp_path, tmp_path / "runs"
    settings.STORAGE_DIR, settings.MODELS_DIR = tmp_path / "storage", tmp_path / "models"
    save_tiny_llama(tmp_path / "models" / "tiny-llama")
    team = Team.objects.create(slug="t", name="T")
    study = submitted(team, None, data_version(team, tmp_path / "data", n_valid=8), **GIVEN)
    assert study.run is not None and supervise(study.run.pk) == "succeeded", _log(study)
    page = page_of(study_of(team=team, pk=study.pk))
    assert [(cell.key, cell.state) for cell in page.cells] == [
        ("zero_shot-s17", "done"), ("few_shot-s17", "done"), ("prompt_tuning-s17", "done"),
    ]  # fmt: skip
    assert page.board is not None and page.board.is_complete and page.board.findings and page.state.name == "done"
    assert {cell.key for cell in page.promotable} == {cell.key for cell in page.cells}
    assert all(report_of(page.study, ending)[0].stat().st_size for ending in ("html", "md", "csv"))
    found = disagreements(study=page.study, a="zero_shot-s17", b="prompt_tuning-s17", given={})
    assert found.counts["total"] == 12
    made = [study_promote(entry=cell.entry, user=None, name=f"made-{n}") for n, cell in enumerate(page.promotable)
            if cell.entry]  # fmt: skip
    assert [type(version) for version in made] == [PromptVersion, PromptVersion, AdapterVersion]
    assert all(version.metrics["test"]["n_rows"] == 12 for version in map(_fresh, made))

    study_extend(study=page.study, user=None, seeds=[18])
    first = page.study.entries.get(key="zero_shot-s17").summary
    grown = Study.objects.select_related("run").get(pk=study.pk)
    assert grown.run is not None and supervise(grown.run.pk) == "succeeded", _log(grown)
    assert grown.entries.get(key="zero_shot-s17").summary == first
    assert set(grown.entries.values_list("key", flat=True)) >= {"few_shot-s18", "prompt_tuning-s18"}
    assert (storage.path_of(Study.objects.get().storage_key) / "artifacts").is_dir()


def _fresh(version: Any) -> Any:
    version.refresh_from_db()
    return version


def _log(study: Study) -> str:
    run = Run.objects.get(pk=study.run_id)
    path = workdir_of(run.pk) / "log.jsonl"
    lines = [line for name, data in run.events.values_list("name", "data") if name == "log" for line in data["lines"]]
    return json.dumps(run.error) + (path.read_text()[-2000:] if path.is_file() else "") + "\n".join(lines[-30:])
