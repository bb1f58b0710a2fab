"""Adapters that change the model itself: a model of their own that shares what it can, and a turn of their own."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch

from ml.data.chat import prompt_ids
from ml.engine.own import own_tensors, sharing
from ml.engine.types import Done, Started, Token
from ml.errors import ArtifactError
from tests.ml.engine.conftest import OWN, InlineExecutor, request_of, run
from tests.ml.engine.scenarios import LateExecutor
from tests.ml.engine.test_schedules import ROOM_FOR_ONE


@pytest.fixture
def ids(zoo):
    return prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": "My lights went out."}])


def resident(engine) -> list[str]:
    return [about["artifact"] for about in engine.own.resident()]


def test_a_copy_shares_every_tensor_and_has_modules_of_its_own(zoo):
    copied = sharing(zoo.backbone.model)
    assert not own_tensors(copied, zoo.backbone.model)
    assert not set(copied.modules()) & set(zoo.backbone.model.modules())


@pytest.mark.parametrize("kind", OWN)
def test_it_costs_the_tensors_that_it_changes_and_its_slots(kind, zoo, make_engine, ids):
    engine = make_engine()
    run(engine, [request_of(zoo, kind, ids)])
    (batch,) = engine.own.batches
    changed = own_tensors(batch.backbone.model, engine.backbone.model)
    weights = sum(tensor.nbytes for tensor in changed.values())
    cache = sum(t.nbytes for layer in batch.runner.cache.layers for t in (layer.keys, layer.values))
    n_columns = batch.runner.cache.columns
    assert engine.own.resident()[0]["bytes"] == weights + cache * engine.scheduler.length // n_columns
    if kind == "last_k":
        assert all(".layers.1." in name or ".norm." in name for name in changed)
    whole = sum(parameter.nbytes for parameter in engine.backbone.model.parameters())
    assert (weights == whole) if kind == "full" else (0 < weights < whole)


def test_its_rows_never_share_a_batch_with_others(zoo, make_engine, ids):
    engine = make_engine()
    kinds = ["plain", "lora", "last_k", "dora", "prompt_tuning"]
    for kind in kinds:
        engine.submit(request_of(zoo, kind, ids, max_tokens=12))
    together = set()
    while not engine.is_idle:
        engine.step()
        together |= {tuple(sorted(row.request.label for row in b.scheduler.live)) for b in engine.batches}
    assert ("last_k",) in together and ("dora",) in together
    assert not any({"last_k", "dora"} & set(labels) and len(labels) > 1 for labels in together)


def test_models_with_live_rows_take_turns(zoo, make_engine, ids):
    engine = make_engine()
    kinds = ["plain", "last_k", "output_layers"]
    run(engine, [request_of(zoo, kind, ids, max_tokens=1) for kind in kinds])
    outcome = run(engine, [request_of(zoo, kind, ids, max_tokens=15) for kind in kinds])
    for kind in kinds:
        steps = [token.step for token in outcome.tokens(kind)]
        assert all(later - earlier == 3 for earlier, later in pairwise(steps[:12]))


def test_the_main_batch_goes_on_while_a_model_is_loaded(zoo, make_engine, ids):
    class Held(InlineExecutor):
        """Adapters come at once, models when the test lets them."""

        def __init__(self) -> None:
            self.release = threading.Event()
            self.pool = ThreadPoolExecutor(1)

        def submit(self, function, /, *args, **kwargs) -> Future:
            if function.__qualname__.startswith("OwnModels"):
                return self.pool.submit(lambda: self.release.wait(30) and function(*args, **kwargs))
            return super().submit(function, *args, **kwargs)

    held = Held()
    engine = make_engine(executor=held)
    engine.submit(request_of(zoo, "last_k", ids, name="slow"))
    engine.submit(request_of(zoo, "last_k", ids, name="given up"))
    engine.submit(request_of(zoo, "plain", ids, name="quick", max_tokens=20))
    engine.cancel("given up")
    events = []
    while not any(isinstance(event, Done) and event.id == "quick" for event in events):
        events += engine.step()
    assert {event.id for event in events if isinstance(event, Token)} == {"quick"}
    assert engine.snapshot().queue == 1 and not engine.is_idle
    held.release.set()
    held.pool.shutdown(wait=True)
    assert run(engine).ids("slow") == zoo.greedy("last_k", ids, 6, engine.stop_ids)


def test_without_room_for_both_the_one_used_longest_ago_leaves(zoo, make_engine, ids):
    engine = make_engine(own_bytes=ROOM_FOR_ONE)
    for kind in ("full", "last_k", "full"):
        assert run(engine, [request_of(zoo, kind, ids)]).ids(kind) == zoo.greedy(kind, ids, 6, engine.stop_ids)
        assert resident(engine)[-1] == zoo.shas[kind]
        assert sum(about["bytes"] for about in engine.own.resident()) <= ROOM_FOR_ONE
    assert resident(engine) == [zoo.shas["full"]]


def test_a_model_that_is_always_asked_makes_room_for_one_that_waits(zoo, make_engine, ids):
    """Rows of the busy one keep coming; the other's row must not wait for ever."""
    engine = make_engine(own_bytes=ROOM_FOR_ONE, n_slots=2)
    ends = set()
    for n in range(60):
        engine.submit(request_of(zoo, "full", ids, name=f"full {n}", max_tokens=5))
        if n == 10:
            engine.submit(request_of(zoo, "output_layers", ids, name="waits"))
        for _ in range(3):
            ends |= {event.id for event in engine.step() if isinstance(event, Done)}
        if "waits" in ends:
            break
    assert "waits" in ends
    outcome = run(engine)
    assert not engine.own.n_waiting and not any(isinstance(event, ArtifactError) for event in outcome.events)


def test_two_that_wait_for_the_same_room_are_both_served(zoo, make_engine, ids):
    """A model that was loaded in the executor had no rows yet when the other asked for room, and left again at once:
    each pushed the other out for ever."""
    executor = LateExecutor()
    engine = make_engine(own_bytes=ROOM_FOR_ONE, executor=executor)
    kinds = ["full", "last_k", "output_layers"]
    outcome = run(engine, [request_of(zoo, kind, ids) for kind in kinds], after_step=executor.release)
    for kind in kinds:
        assert outcome.ids(kind) == zoo.greedy(kind, ids, 6, engine.stop_ids)


def test_one_that_can_never_fit_is_refused_with_the_sizes(zoo, make_engine, ids):
    engine = make_engine(own_bytes=1000)
    outcome = run(engine, [request_of(zoo, "last_k", ids), request_of(zoo, "plain", ids)])
    error = outcome.failed("last_k").error
    assert isinstance(error, ArtifactError) and "model of its own" in str(error) and "ENGINE_OWN_MB" in error.hint
    assert outcome.ids("plain") == zoo.greedy("plain", ids, 6, engine.stop_ids)


def test_weights_with_values_that_are_none_are_refused(zoo, make_engine, tmp_path, ids):
    from safetensors.torch import load_file, save_file

    from tests.ml.engine.conftest import base_of, save_as

    def broken(stage):
        stage.mkdir()
        source = zoo.folder / zoo.shas["last_k"]
        (stage / "weights_config.json").write_bytes((source / "weights_config.json").read_bytes())
        tensors = {
            k: torch.full_like(v, float("nan")) for k, v in load_file(source / "model_delta.safetensors").items()
        }
        save_file(tensors, stage / "model_delta.safetensors")

    sha = save_as(tmp_path, "last_k", "own_backbone", base_of(zoo.backbone), broken)
    engine = make_engine(artifact_folder=lambda name: tmp_path / name)
    zoo.shas["broken"] = sha
    assert "NaN" in str(run(engine, [request_of(zoo, "broken", ids)]).failed("broken").error)
    del zoo.shas["broken"]


def test_the_start_says_which_model_it_is(zoo, make_engine, ids):
    outcome = run(make_engine(), [request_of(zoo, kind, ids) for kind in ("plain", "lora", "dora")])
    started = {event.id: event.model for event in outcome.events if isinstance(event, Started)}
    assert started == {"plain": "", "lora": "", "dora": zoo.shas["dora"]}


def test_cancelling_a_row_of_its_own_model_frees_the_slot(zoo, make_engine, ids):
    engine = make_engine()
    engine.submit(request_of(zoo, "dora", ids, name="goes", max_tokens=50))
    for _ in range(4):
        engine.step()
    engine.cancel("goes")
    assert run(engine).done("goes").finish_reason == "cancelled"
    assert all(batch.is_idle for batch in engine.batches)


def test_the_snapshot_counts_its_rows_and_bytes(zoo, make_engine, ids):
    engine = make_engine()
    for kind in ("last_k", "plain"):
        engine.submit(request_of(zoo, kind, ids, max_tokens=30))
    for _ in range(6):
        engine.step()
    shot = engine.snapshot()
    assert {(row["label"], row["form"]) for row in shot.rows} == {("last_k", "own_backbone"), ("plain", "plain")}
    assert shot.slots == 8 and {row["slot"] for row in shot.rows} == {0, 4}
    assert [about["form"] for about in engine.resident()] == ["own_backbone"]
