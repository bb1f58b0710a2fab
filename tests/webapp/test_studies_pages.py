"""Pages of studies: the list, and who may see and do what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.webapp.study_fixtures import asked, client, study, version  # noqa: F401
from tests.webapp.study_pages import RIGHT, page_of
from tests.webapp.studying import published, submitted
from webapp.models import Run, Study, Team


def test_an_empty_list_leads_to_a_new_study_with_one_button(client: Client, team: Team):
    page = page_of(client, "/studies/")
    assert "Nothing was compared yet" in page and page.count('href="/studies/new/"') == 1


def test_who_only_reads_is_not_led_to_a_form_that_is_closed(viewer: Any, client_of: Callable[[Any], Client]):
    page = page_of(client_of(viewer), "/studies/")
    assert "A member of the team starts a study" in page and 'href="/studies/new/"' not in page


def test_the_list_says_what_can_be_said_and_what_is_the_best_so_far(client: Client, study: Study):
    page = page_of(client, "/studies/")
    for text in ("Which one?", "tickets@1, tiny", "4 of 4 done", "Take lora.", "91.7", "no limit set"):
        assert text in page, text


def test_the_list_is_narrowed_by_name_and_by_state(client: Client, study: Study, team: Team, member: Any, version: Any):
    submitted(team, member, version)
    Study.objects.filter(pk=study.pk).update(name="Finished")
    done = page_of(client, "/studies/?state=done")
    assert "Finished" in done and "Which one?" not in done
    assert "Which one?" in page_of(client, "/studies/?state=open&q=tick")
    assert "No study matches" in page_of(client, "/studies/?q=nowhere")


def test_a_run_that_failed_is_found_as_failed(client: Client, asked: Study):
    Run.objects.update(state=Run.State.FAILED)
    assert "Which one?" in page_of(client, "/studies/?state=failed")
    assert "No study matches" in page_of(client, "/studies/?state=stopped")


def test_an_archived_study_is_in_a_list_of_its_own_and_comes_back(client: Client, study: Study):
    client.post(f"/studies/{study.pk}/archive/")
    assert f'href="/studies/{study.pk}/"' not in page_of(client, "/studies/")
    assert f'href="/studies/{study.pk}/"' in page_of(client, "/studies/archived/")
    client.post(f"/studies/{study.pk}/archive/", {"back": "1"})
    assert f'href="/studies/{study.pk}/"' in page_of(client, "/studies/")


def test_boards_of_single_runs_stay_reachable(client: Client, team: Team):
    assert 'href="/studies/same-rows/"' in page_of(client, "/studies/")
    assert "Measured on the same rows" in page_of(client, "/studies/same-rows/")


@pytest.mark.usefixtures("redis_url_unreachable")
def test_home_leads_to_a_study_and_ticks_the_step_off_by_one(client: Client, asked: Study, tmp_path: Path):
    assert 'href="/studies/new/"' in page_of(client, "/")
    study = published(asked, tmp_path, RIGHT)
    assert f'href="/studies/{study.pk}/"' in page_of(client, "/")
    assert "Which one?" in page_of(client, "/search?q=which")


def test_its_data_its_run_and_its_list_lead_to_one_another(client: Client, study: Study):
    version = study.dataset_version
    assert f"/studies/new/?dataset_version={version.pk}" in page_of(client, f"/datasets/{version.dataset_id}/")
    assert f'href="/studies/{study.pk}/"' in page_of(client, f"/runs/{study.run_id}/")
    page = page_of(client, f"/studies/{study.pk}/")
    assert f'href="/runs/{study.run_id}/"' in page and f"/datasets/{version.dataset_id}/?version=1" in page


READS = ("", "live/", "rows/", "report/md/")
FORMS = ("extend/", "promote/")
WRITES = ("stop/", "continue/", "rename/", "archive/")


@pytest.mark.parametrize("end", (*READS, *FORMS, *WRITES))
def test_strangers_sign_in_first_and_another_team_finds_nothing(
    end: str, study: Study, stranger: Any, client_of: Callable[[Any], Client]
):
    path = f"/studies/{study.pk}/{end}"
    method = "post" if end in WRITES else "get"
    assert getattr(Client(), method)(path).status_code == 302
    assert getattr(client_of(stranger), method)(path).status_code == 404


@pytest.mark.parametrize("end", (*FORMS, *WRITES))
def test_who_only_reads_changes_nothing(end: str, study: Study, viewer: Any, client_of: Callable[[Any], Client]):
    client = client_of(viewer)
    assert client.post(f"/studies/{study.pk}/{end}").status_code == 403
    assert client.get("/studies/new/").status_code == client.post("/studies/new/preview/").status_code == 403
    page = page_of(client, f"/studies/{study.pk}/")
    assert "Leaderboard" in page and "Promote" not in page and "Archive" not in page


@pytest.mark.parametrize("end", READS)
def test_reading_is_only_read(end: str, client: Client, study: Study):
    assert client.post(f"/studies/{study.pk}/{end}").status_code == 405


@pytest.mark.parametrize("end", WRITES)
def test_writing_is_only_posted(end: str, client: Client, study: Study):
    assert client.get(f"/studies/{study.pk}/{end}").status_code == 405
