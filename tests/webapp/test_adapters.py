"""Publishing versions, the gate before production, naming and retiring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml.errors import ColdframeError, NotFoundError
from tests.webapp.library import artifact, dataset_version, evaluation, measured, published
from webapp.models import Adapter, AdapterVersion, Alias, AuditEvent, Run, Team
from webapp.selectors import adapters as selectors
from webapp.selectors.metrics import measure
from webapp.selectors.production import artifacts_in_production
from webapp.services import adapters as services
from webapp.services import aliases


@pytest.fixture(autouse=True)
def stored(settings: Any, tmp_path: Path) -> Path:
    settings.STORAGE_DIR = tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()
    return tmp_path


def test_the_first_version_gets_production(team: Team, tmp_path: Path) -> None:
    version = published(team, tmp_path / "out")
    assert str(Alias.objects.get().version) == "triage@1" and version.n_trainable == 1234


def test_the_second_version_leaves_production_where_it_is(team: Team, tmp_path: Path) -> None:
    published(team, tmp_path / "a")
    second = published(team, tmp_path / "b", README__md=b"other")
    assert second.number == 2 and Alias.objects.get().version.number == 1


def test_a_version_knows_its_artifact_size_and_metrics(team: Team, tmp_path: Path) -> None:
    version = published(team, tmp_path / "out", test=measured(0.9, 0.85, 0.94))
    assert len(version.artifact) == 64
    assert version.size_bytes == sum(f["bytes"] for f in version.manifest["files"].values())
    assert version.metrics["headline"] == {"name": "accuracy", "value": 0.9, "low": 0.85, "high": 0.94}


def test_publishing_twice_makes_one_version(team: Team, tmp_path: Path) -> None:
    version = published(team, tmp_path / "out")
    manifest = version.manifest
    again = services.adapter_publish(run=version.run, out=tmp_path / "out", manifest=manifest, fence=1)
    assert again.pk == version.pk and AdapterVersion.objects.count() == 1


def test_a_dead_fence_publishes_nothing(team: Team, tmp_path: Path) -> None:
    run = Run.objects.create(team=team, kind="train", title="t", spec={"adapter": "t"}, fence=4)
    manifest = artifact(tmp_path / "out", evaluations=[])
    with pytest.raises(ColdframeError, match="fence 3 is dead"):
        services.adapter_publish(run=run, out=tmp_path / "out", manifest=manifest, fence=3)
    assert not Adapter.objects.exists()


def test_a_run_with_an_impossible_name_is_published_all_the_same(team: Team, tmp_path: Path) -> None:
    version = published(team, tmp_path / "out", name="not a name!")
    assert version.adapter.name == f"run-{version.run_id}"


def test_two_teams_may_use_one_name(team: Team, other_team: Team, tmp_path: Path) -> None:
    ours, theirs = published(team, tmp_path / "a"), published(other_team, tmp_path / "b")
    assert (ours.number, theirs.number) == (1, 1) and ours.adapter_id != theirs.adapter_id


def test_publishing_into_a_retired_adapter_brings_it_back(team: Team, admin: Any, tmp_path: Path) -> None:
    first = published(team, tmp_path / "a")
    services.adapter_retire(adapter=first.adapter, user=admin)
    published(team, tmp_path / "b", README__md=b"other")
    assert not Adapter.objects.get().is_retired


def _two(team: Team, tmp_path: Path, new: dict[str, Any], **options: Any) -> AdapterVersion:
    """production is 0.77 [0.70, 0.83]; returns the second version."""
    published(team, tmp_path / "a", test=measured(0.77, 0.70, 0.83))
    return published(team, tmp_path / "b", test=new, README__md=b"other", **options)


def test_a_version_that_is_certainly_better_moves_freely(team: Team, member: Any, tmp_path: Path) -> None:
    version = _two(team, tmp_path, measured(0.967, 0.924, 0.986))
    services.alias_move(version=version, name="production", user=member)
    assert Alias.objects.get(name="production").version == version


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (measured(0.80, 0.73, 0.86), "overlap"),
        (measured(0.50, 0.42, 0.58), "below"),
        (measured(0.967, 0.924, 0.986, n_rows=40), "not measured on the same rows"),
        (None, "not measured on test rows"),
    ],
)
def test_production_is_held_back_unless_better_was_shown(
    team: Team, member: Any, tmp_path: Path, new: dict[str, Any] | None, why: str
) -> None:
    version = _two(team, tmp_path, new)  # type: ignore[arg-type]
    with pytest.raises(ColdframeError, match=why) as raised:
        services.alias_move(version=version, name="production", user=member, reason="  ")
    assert raised.value.code == "held_back" and Alias.objects.get().version.number == 1


def test_another_dataset_version_is_no_comparison(team: Team, member: Any, tmp_path: Path) -> None:
    version = _two(team, tmp_path, measured(0.99, 0.98, 1.0), data=dataset_version(team, number=2))
    with pytest.raises(ColdframeError, match="different datasets"):
        services.alias_move(version=version, name="production", user=member)


def test_a_reason_moves_production_and_is_kept(team: Team, member: Any, tmp_path: Path) -> None:
    version = _two(team, tmp_path, measured(0.50, 0.42, 0.58))
    services.alias_move(version=version, name="production", user=member, reason="213 times smaller")
    event = AuditEvent.objects.filter(action="alias.move").first()
    assert event is not None and event.created_by == member and event.subject == "triage@production"
    assert event.detail == {"to": 2, "from": 1, "reason": "213 times smaller", "held_back": True}


def test_other_aliases_move_without_a_reason(team: Team, member: Any, tmp_path: Path) -> None:
    version = _two(team, tmp_path, measured(0.50, 0.42, 0.58))
    services.alias_move(version=version, name="staging", user=member)
    assert {alias.name for alias in Alias.objects.all()} == {"production", "staging"}


@pytest.mark.parametrize("name", ["", "7", "two words", "base", "x" * 41])
def test_an_alias_must_be_a_name(team: Team, member: Any, tmp_path: Path, name: str) -> None:
    version = published(team, tmp_path / "a")
    with pytest.raises(ColdframeError):
        services.alias_move(version=version, name=name, user=member)


def test_an_alias_that_was_moved_meanwhile_is_not_overwritten(team: Team, member: Any, tmp_path: Path) -> None:
    version = _two(team, tmp_path, measured(0.967, 0.924, 0.986))
    stale = Alias.objects.select_related("version").get()
    services.alias_move(version=version, name="production", user=member)
    with pytest.raises(ColdframeError, match="moved by someone else"):
        aliases._point(aliases.ADAPTERS, stale, version=version, name="production", user=member)


def test_renaming_to_a_taken_name_is_refused(team: Team, member: Any, tmp_path: Path) -> None:
    first = published(team, tmp_path / "a", name="one")
    published(team, tmp_path / "b", name="two")
    with pytest.raises(ColdframeError, match="'two' already"):
        services.adapter_edit(adapter=first.adapter, user=member, name="two", description="")


def test_a_retired_adapter_leaves_the_library(team: Team, admin: Any, tmp_path: Path) -> None:
    version = published(team, tmp_path / "a")
    services.adapter_retire(adapter=version.adapter, user=admin)
    assert not selectors.library(team=team).exists()
    services.adapter_retire(adapter=version.adapter, user=admin, is_retired=False)
    assert selectors.library(team=team).exists()


def test_a_version_of_another_team_is_not_found(team: Team, other_team: Team, tmp_path: Path) -> None:
    theirs = published(other_team, tmp_path / "a")
    with pytest.raises(NotFoundError):
        selectors.version_of(team=team, pk=theirs.adapter_id, number=1)


def test_a_loss_is_no_headline() -> None:
    assert measure({"test": {"loss": 0.3, "n_rows": 5}}) is None


def test_only_measurements_on_test_rows_count_and_the_last_one_wins(team: Team, tmp_path: Path) -> None:
    early, late = measured(0.5, 0.4, 0.6), measured(0.9, 0.85, 0.94)
    reports = [
        evaluation(early, "plain", "validation"), evaluation(late, "adapter", "validation"),
        evaluation(early, "plain"), evaluation(early, "adapter"), evaluation(late, "adapter"),
    ]  # fmt: skip
    manifest = artifact(tmp_path / "out", evaluations=reports)
    run = Run.objects.create(team=team, kind="train", title="t", spec={"adapter": "t"}, fence=1)
    version = services.adapter_publish(run=run, out=tmp_path / "out", manifest=manifest, fence=1)
    assert (version.metrics["test"], version.metrics["plain"]) == (late, early)


def test_validation_rows_alone_are_no_measurement_on_test(team: Team, tmp_path: Path) -> None:
    manifest = artifact(tmp_path / "out", evaluations=[evaluation(measured(0.9, 0.8, 1.0), "adapter", "validation")])
    run = Run.objects.create(team=team, kind="train", title="t", spec={"adapter": "t"}, fence=1)
    version = services.adapter_publish(run=run, out=tmp_path / "out", manifest=manifest, fence=1)
    assert measure(version.metrics) is None


def test_production_over_all_teams_is_told_by_base_model_the_newest_promotion_first(
    team: Team, other_team: Team, member: Any, tmp_path: Path
) -> None:
    versions = {
        key: published(owner, tmp_path / key, name=name, weights=key.encode())
        for key, name, owner in (
            ("first", "a", team), ("newer, staged", "a", team), ("second", "b", other_team), ("retired", "c", team)
        )
    }  # fmt: skip
    services.alias_move(version=versions["newer, staged"], name="staging", user=member)
    services.adapter_retire(adapter=versions["retired"].adapter, user=member)
    fingerprint = versions["first"].base_fingerprint
    names = {version.artifact: name for name, version in versions.items()}
    assert [names[artifact] for artifact in artifacts_in_production(fingerprint)] == ["second", "first"]
    assert artifacts_in_production("0" * 64) == []
