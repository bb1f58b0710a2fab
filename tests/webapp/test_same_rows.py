"""Leaderboards: the same rows only, ties by overlapping intervals, the cheapest of the tied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from ml.errors import NotFoundError
from tests.webapp.library import dataset_version, measured, published
from webapp.models import Adapter, AdapterVersion, Team
from webapp.selectors import same_rows as selectors

SignIn = Callable[[Any], Client]
PLAIN = measured(0.247, 0.185, 0.321)


@pytest.fixture(autouse=True)
def stored(settings: Any, tmp_path: Path) -> None:
    settings.STORAGE_DIR = tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()


@pytest.fixture
def grown(team: Team, tmp_path: Path) -> Callable[..., AdapterVersion]:
    """Publishes an adapter of a size in bytes, measured beside the plain model."""

    def grow(name: str, test: dict[str, Any] | None, size: int = 100, **options: Any) -> AdapterVersion:
        version = published(team, tmp_path / name, name=name, test=test, plain=PLAIN, **options)
        AdapterVersion.objects.filter(pk=version.pk).update(size_bytes=size)
        return version

    return grow


def test_overlap_with_the_best_is_a_tie_and_the_cheapest_is_to_be_taken(team: Team, grown: Any) -> None:
    grown("large", measured(0.967, 0.924, 0.986), size=9_800_000)
    grown("small", measured(0.953, 0.907, 0.977), size=4_900_000)
    grown("tiny", measured(0.773, 0.700, 0.833), size=46_000)
    (board,) = selectors.boards(team=team)
    assert [e.label for e in board.groups[0].entries] == ["large@1", "small@1"]
    assert [e.label for e in board.groups[1].entries] == ["tiny@1", "the plain model"]
    assert board.take is not None and board.take.label == "small@1"


def test_the_plain_model_wins_a_tie_because_it_costs_nothing(team: Team, grown: Any) -> None:
    grown("useless", measured(0.30, 0.23, 0.38))
    (board,) = selectors.boards(team=team)
    assert board.n_tied == 2 and board.take is not None and board.take.label == "the plain model"


def test_intervals_that_touch_are_tied() -> None:
    from webapp.selectors.metrics import measure

    a, b = (measure({"test": measured(*values)}) for values in ((0.9, 0.8, 1.0), (0.7, 0.6, 0.8)))
    assert a is not None and b is not None and a.overlaps(b) and b.overlaps(a)


def test_different_numbers_of_rows_never_share_a_board(team: Team, grown: Any) -> None:
    grown("a", measured(0.9, 0.85, 0.94, n_rows=150))
    grown("b", measured(0.9, 0.80, 0.96, n_rows=40))
    boards = selectors.boards(team=team)
    assert sorted(board.n_rows for board in boards) == [40, 150]
    assert [[e.label for e in board.entries if e.version] for board in boards if board.n_rows == 40] == [["b@1"]]


def test_the_plain_model_stands_only_where_it_met_the_same_rows(team: Team, grown: Any) -> None:
    grown("b", measured(0.9, 0.80, 0.96, n_rows=40))
    (board,) = selectors.boards(team=team)
    assert [entry.label for entry in board.entries] == ["b@1"]


def test_different_dataset_versions_never_share_a_board(team: Team, grown: Any) -> None:
    grown("a", measured(0.9, 0.85, 0.94))
    grown("b", measured(0.8, 0.75, 0.85), data=dataset_version(team, number=2))
    assert len(selectors.boards(team=team)) == 2


def test_what_was_not_measured_or_is_retired_stands_on_no_board(team: Team, grown: Any) -> None:
    grown("unmeasured", None)
    grown("retired", measured(0.9, 0.85, 0.94))
    Adapter.objects.filter(name="retired").update(is_retired=True)
    assert selectors.boards(team=team) == []


def test_another_teams_rows_stand_on_no_board_of_ours(team: Team, other_team: Team, grown: Any, tmp_path: Path) -> None:
    theirs = published(other_team, tmp_path / "theirs", test=measured(0.99, 0.98, 1.0))
    grown("ours", measured(0.9, 0.85, 0.94))
    assert all(e.version is None or e.version.team == team for b in selectors.boards(team=team) for e in b.entries)
    assert theirs.dataset_version is not None
    with pytest.raises(NotFoundError):
        selectors.boards_of(team=team, pk=theirs.dataset_version.pk)


def test_the_page_says_what_can_be_said_and_no_more(client_of: SignIn, viewer: Any, team: Team, grown: Any) -> None:
    version = grown("large", measured(0.967, 0.924, 0.986), size=9_800_000)
    grown("small", measured(0.953, 0.907, 0.977), size=4_900_000)
    page = client_of(viewer).get(reverse("studies:board", args=[version.dataset_version_id])).content.decode()
    for text in ("Measured on the same rows", "statistically tied", "take this one", "plain model, untouched",
                 "4.9 MB", "1,234", "1 min 1 s", "2.0 MB", "do not prove"):  # fmt: skip
        assert text in page


def test_an_empty_page_leads_to_a_new_run(client_of: SignIn, viewer: Any) -> None:
    page = client_of(viewer).get(reverse("studies:boards")).content.decode()
    assert "Nothing to compare yet" in page and reverse("runs:new") in page


def test_another_team_does_not_find_a_board(client_of: SignIn, stranger: Any, team: Team, grown: Any) -> None:
    version = grown("a", measured(0.9, 0.85, 0.94))
    assert client_of(stranger).get(reverse("studies:board", args=[version.dataset_version_id])).status_code == 404


def test_a_board_is_only_read(client_of: SignIn, admin: Any, team: Team, grown: Any) -> None:
    version = grown("a", measured(0.9, 0.85, 0.94))
    client = client_of(admin)
    assert client.post(reverse("studies:boards")).status_code == 405
    assert client.post(reverse("studies:board", args=[version.dataset_version_id])).status_code == 405
