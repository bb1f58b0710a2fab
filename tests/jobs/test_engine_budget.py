"""An engine is refused before it runs out of memory, and what it needs is not given to a run."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs import stream, supervise
from jobs.engine_budget import Needs, check_fits, needs_of, run_limit
from jobs.engine_config import EngineConfig
from jobs.engine_main import EngineProcess
from ml.backbone import load_backbone
from ml.engine.engine import Engine
from ml.errors import OutOfMemoryError, UnavailableError
from tests.ml.conftest import save_tiny_llama

GB = 1_000_000_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llama(folder / "tiny-llama")
    return folder


def beat_of(needs: float, **fields: Any) -> dict[str, Any]:
    return {"host": socket.gethostname(), "device": "cpu", "needs_bytes": int(needs * GB), **fields}


def test_what_is_planned_is_what_model_and_slots_hold(models: Path) -> None:
    needs = needs_of(models / "tiny-llama", n_slots=3, length=64)
    engine = Engine(load_backbone(models / "tiny-llama"), artifact_folder=Path, n_slots=3, length=64, is_packed=False)
    weights = {p.data_ptr(): p.numel() * p.element_size() for p in engine.backbone.model.parameters()}
    assert needs.weights == sum(weights.values())
    cache = engine.runner.cache
    held = sum(store.numel() * store.element_size() for layer in cache.layers for store in (layer.keys, layer.values))
    assert needs.slots == held * engine.runner.length // cache.columns


def test_a_base_in_four_bits_needs_what_its_parameters_hold(models: Path) -> None:
    needs = needs_of(models / "tiny-llama", n_slots=3, length=64, quantization="nf4")
    model = load_backbone(models / "tiny-llama", quantization="nf4").model
    held = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    whole = needs_of(models / "tiny-llama", n_slots=3, length=64)
    assert sum(held.values()) <= needs.weights <= 1.05 * sum(held.values()) < whole.weights
    assert needs.slots == whole.slots


def test_an_engine_that_does_not_fit_is_refused_with_the_sizes_and_what_to_lower() -> None:
    needs = Needs(weights=2 * GB, slots=3 * GB)
    check_fits("big", needs, free=5 * GB, n_slots=8, length=512)
    with pytest.raises(
        OutOfMemoryError, match=r"big needs 5\.0 GB: 2\.0 GB .* 8 slots of 512 tokens\. 4\.0 GB"
    ) as caught:
        check_fits("big", needs, free=4 * GB, n_slots=8, length=512)
    assert "ENGINE_SLOTS" in caught.value.hint


def test_an_engine_that_does_not_fit_ends_before_it_loads(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ml.plan.verdicts.free_bytes", lambda device: 1000)
    monkeypatch.setattr("ml.backbone.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    config = EngineConfig(
        base="tiny-llama", models_dir=models, artifact_folder=Path, threads=1, redis_url="redis://127.0.0.1:1/0"
    )  # fmt: skip
    assert EngineProcess(config).run() == 69
    assert "ENGINE_LENGTH" in caplog.text


def test_a_run_may_hold_what_the_engines_of_its_machine_leave() -> None:
    assert run_limit(10 * GB, []) == 9 * GB
    assert run_limit(10 * GB, [beat_of(2), beat_of(1.5)]) == 5.5 * GB
    assert run_limit(10 * GB, [beat_of(2, host="elsewhere"), beat_of(2, device="cuda:0"), {}]) == 9 * GB
    assert run_limit(10 * GB, [beat_of(9)]) == 2.5 * GB


def test_the_supervisor_counts_engines_and_forgets_them_while_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    total = psutil.virtual_memory().total
    monkeypatch.setattr(stream, "engines", lambda: [beat_of(1)])
    assert supervise._memory_limit() == int(0.9 * total - GB)

    def away() -> None:
        raise UnavailableError("Redis does not answer.")

    monkeypatch.setattr(stream, "engines", away)
    assert supervise._memory_limit() == int(0.9 * total)
