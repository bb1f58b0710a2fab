"""Two versions compared: the page, what it shows, who may see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.webapp.uploading import rung, store
from webapp.models import DatasetVersion
from webapp.services import dataset_diffs
from webapp.services.datasets import version_from_rows

pytestmark = pytest.mark.django_db
__all__ = ["rung", "store"]
ROWS = [{"text": f"message {i}", "label": ["outage", "billing"][i % 2]} for i in range(40)]
MAPPING = {"task": "classification", "prompt": "{text}", "completion": "{label}"}


@pytest.fixture
def two(team: Any, member: Any, store: Path) -> DatasetVersion:
    """A second version that differs from the first in one label, one new row and one that is gone."""

    def make(rows: list[dict[str, Any]]) -> DatasetVersion:
        return version_from_rows(team=team, user=member, name="support", rows=rows, mapping=MAPPING)

    make(ROWS)
    return make([{"text": "message 0", "label": "Outage"}, *ROWS[2:], {"text": "a new one", "label": "meter"}])


def test_the_page_counts_what_changed_and_shows_the_words(two: DatasetVersion, viewer: Any, client_of: Any) -> None:
    client = client_of(viewer)
    page = client.get(f"/datasets/{two.dataset_id}/diff/").content.decode()
    assert "Comparing 40 with 40 rows" in page
    part = client.get(f"/datasets/{two.dataset_id}/diff/found/?old=1&new=2").content.decode()
    assert "<del>outage</del>" in part and "<ins>Outage</ins>" in part
    assert "a new one" in part and "message 1" in part


def test_what_was_found_once_is_kept_and_shown_at_once(
    two: DatasetVersion, viewer: Any, client_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, url = client_of(viewer), f"/datasets/{two.dataset_id}/diff/"
    client.get(f"{url}found/")
    monkeypatch.setattr(dataset_diffs, "read_in_child", lambda **_: pytest.fail("was read again"))
    assert "<ins>Outage</ins>" in client.get(url).content.decode()


def test_a_version_compared_with_itself_says_so(two: DatasetVersion, viewer: Any, client_of: Any) -> None:
    page = client_of(viewer).get(f"/datasets/{two.dataset_id}/diff/found/?old=2&new=2").content.decode()
    assert "they are one version" in page


def test_files_that_are_gone_are_said_on_the_page(
    two: DatasetVersion, viewer: Any, client_of: Any, store: Path
) -> None:
    for path in (store / "storage" / two.storage_key).iterdir():
        path.unlink()
    page = client_of(viewer).get(f"/datasets/{two.dataset_id}/diff/found/").content.decode()
    assert "cannot be read" in page


def test_versions_that_are_not_there_and_other_teams_are_404(
    two: DatasetVersion, viewer: Any, stranger: Any, client_of: Any
) -> None:
    assert client_of(viewer).get(f"/datasets/{two.dataset_id}/diff/?old=9").status_code == 404
    assert client_of(stranger).get(f"/datasets/{two.dataset_id}/diff/").status_code == 404


def test_the_version_page_leads_there_once_there_are_two(two: DatasetVersion, viewer: Any, client_of: Any) -> None:
    page = client_of(viewer).get(f"/datasets/{two.dataset_id}/").content.decode()
    assert f'href="/datasets/{two.dataset_id}/diff/?new=2"' in page
