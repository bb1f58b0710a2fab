"""What is in memory: what is asked for, the least recently used leaves first and what is pinned last."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from ml.backbone import Backbone
from ml.data.chat import prompt_ids
from ml.engine.stores import leaving
from ml.engine.types import Request, Sampling
from ml.errors import ArtifactError
from tests.ml.engine.conftest import base_of, request_of, run
from tests.ml.engine.scenarios import LateExecutor
from tests.ml.engine.test_schedules import ROOM_FOR_ONE

N_VIRTUAL = 3
EMBEDDING_BYTES = N_VIRTUAL * 32 * 4
PREFIX_BYTES = N_VIRTUAL * 2 * 2 * 2 * 8 * 4


class Registry:
    """Soft prompts that are files only once somebody asks for them."""

    def __init__(self, folder: Path, backbone: Backbone, n: int) -> None:
        self._folder, self._base = folder, base_of(backbone)
        self._config = b'{"peft_type": "PROMPT_TUNING"}'
        self.seeds = {hashlib.sha256(self._parts(seed)["manifest.json"]).hexdigest(): seed for seed in range(n)}
        self.loads: list[str] = []

    @staticmethod
    def prompt(seed: int) -> torch.Tensor:
        return torch.randn(N_VIRTUAL, 32, generator=torch.Generator().manual_seed(seed))

    def _parts(self, seed: int) -> dict[str, bytes]:
        weights = save({"prompt_embeddings": self.prompt(seed)})
        parts = {"adapter_config.json": self._config, "adapter_model.safetensors": weights}
        manifest = {
            "schema": 1, "method": "prompt_tuning", "form": "prefix_kv", "base": self._base, "seed": 0, "spec": {},
            "dataset": {"name": "none", "sha256": ""}, "versions": {}, "metrics": {},
            "files": {n: {"sha256": hashlib.sha256(p).hexdigest(), "bytes": len(p)} for n, p in parts.items()},
        }  # fmt: skip
        return {**parts, "manifest.json": json.dumps(manifest).encode()}

    def folder_of(self, sha: str) -> Path:
        self.loads.append(sha)
        (self._folder / sha).mkdir(exist_ok=True)
        for name, part in self._parts(self.seeds[sha]).items():
            (self._folder / sha / name).write_bytes(part)
        return self._folder / sha


@pytest.fixture
def ids(zoo) -> list[int]:
    return prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": "Hello"}])


def names_in(engine) -> list[str]:
    return [about["artifact"] for about in engine.resident()]


def ask(zoo, engine, *kinds: str, ids) -> None:
    for kind in kinds:
        assert run(engine, [request_of(zoo, kind, ids)]).ids(kind) == zoo.greedy(kind, ids, 6, engine.stop_ids)


def size_of(zoo, make_engine, kind: str, ids) -> int:
    engine = make_engine()
    ask(zoo, engine, kind, ids=ids)
    return engine.adapters.resident()[0].n_bytes


def test_ten_thousand_registered_tasks_cost_nothing_until_used_and_bytes_stay_in_their_budgets(
    zoo, make_engine, tmp_path, ids
):
    registry = Registry(tmp_path, zoo.backbone, 10_000)
    engine = make_engine(
        artifact_folder=registry.folder_of,
        n_slots=16,
        adapter_bytes=40 * EMBEDDING_BYTES,
        prefix_bytes=30 * PREFIX_BYTES,
    )
    assert not engine.resident() and not registry.loads and engine.prefixes.store.n_bytes == 0
    touched = Random(1).sample(list(registry.seeds), 150)
    engine.stop_ids.clear()
    for first in range(0, len(touched), 25):
        requests = [
            Request(id=sha, team_id=1, prompt_ids=tuple(ids), artifact=sha, sampling=Sampling(max_tokens=2))
            for sha in touched[first : first + 25]
        ]
        outcome = run(engine, requests)
        assert all(len(outcome.ids(sha)) == 2 for sha in touched[first : first + 25])
        assert sum(adapter.n_bytes for adapter in engine.adapters.resident(10_000)) <= 40 * EMBEDDING_BYTES
        assert 0 < engine.prefixes.store.n_bytes <= 30 * PREFIX_BYTES
        for sha in touched[first : first + 2]:
            assert outcome.ids(sha) == greedy(zoo, registry.prompt(registry.seeds[sha]), ids, 2)
    assert len(set(registry.loads)) == len(registry.loads) == 150


def greedy(zoo, prompt: torch.Tensor, ids: list[int], n: int) -> list[int]:
    """By the plain model over the trained embeddings and the text's."""
    model, answer = zoo.backbone.model, []
    with torch.inference_mode():
        for _ in range(n):
            text = model.get_input_embeddings()(torch.tensor([*ids, *answer]))
            answer.append(int(model(inputs_embeds=torch.cat([prompt, text])[None]).logits[0, -1].argmax()))
    return answer


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=12), st.integers(0, 150))
def test_what_leaves_is_the_least_recently_used_and_pinned_only_for_pinned(entries, budget):
    sizes = {n: size for n, (size, _) in enumerate(entries)}
    pinned = {n for n, (_, is_pinned) in enumerate(entries) if is_pinned}
    gone = leaving(sizes, budget_bytes=budget, is_pinned=pinned.__contains__)
    stay = [n for n in sizes if n not in gone]
    last = len(entries) - 1
    assert last in stay
    others = [n for n in stay if n not in pinned and n != last]
    assert sum(sizes[n] for n in stay) <= budget or not others
    assert sum(sizes[n] for n in stay if n in pinned) <= budget or not [n for n in stay if n in pinned and n != last]
    for group in (pinned, set(sizes) - pinned):
        mine = [n for n in gone if n in group]
        assert mine == [n for n in sizes if n in group and n != last][: len(mine)]
    if sum(sizes[n] for n in pinned) <= budget:
        assert not pinned & set(gone)


def test_pinned_tasks_are_loaded_before_they_are_asked_for_and_say_so(zoo, make_engine, ids):
    engine = make_engine()
    engine.pin([zoo.shas["lora"], zoo.shas["prompt_tuning"]])
    assert [(about["artifact"], about["pinned"]) for about in engine.resident()] == [
        (zoo.shas["lora"], True), (zoo.shas["prompt_tuning"], True)
    ]  # fmt: skip
    ask(zoo, engine, "ia3", ids=ids)
    engine.pin([zoo.shas["ia3"]])
    assert {about["artifact"]: about["pinned"] for about in engine.resident()} == {
        zoo.shas["lora"]: False, zoo.shas["prompt_tuning"]: False, zoo.shas["ia3"]: True
    }  # fmt: skip


def test_pinned_tasks_outlast_all_others(zoo, make_engine, ids):
    """Also the keys and values that were computed for them."""
    engine = make_engine(adapter_bytes=size_of(zoo, make_engine, "p_tuning", ids), prefix_bytes=1)
    engine.pin([zoo.shas["p_tuning"]])
    ask(zoo, engine, "p_tuning", "lora", "prompt_tuning", "ia3", ids=ids)
    assert names_in(engine) == [zoo.shas["p_tuning"], zoo.shas["ia3"]]
    engine = make_engine(prefix_bytes=4000)
    engine.pin([zoo.shas["p_tuning"]])
    ask(zoo, engine, "p_tuning", "prompt_tuning", "prompt_tuning_short", "prompt_tuning", "p_tuning", ids=ids)
    assert engine.prefixes.store.key_of(zoo.shas["p_tuning"]) in engine.prefixes.store


def test_pinned_tasks_that_do_not_fit_are_loaded_as_far_as_they_do(zoo, make_engine, ids, monkeypatch):
    kinds = ["lora", "lora_other", "lora_odd", "ia3"]
    engine = make_engine(adapter_bytes=2 * size_of(zoo, make_engine, "lora", ids))
    engine.pin([zoo.shas[kind] for kind in kinds])
    assert names_in(engine) == [zoo.shas["lora_other"], zoo.shas["lora_odd"]]
    ask(zoo, engine, *kinds, ids=ids)
    assert sum(adapter.n_bytes for adapter in engine.adapters.resident()) <= engine.adapters._budget_bytes


def test_a_pinned_task_that_is_damaged_is_passed_over_with_a_warning(zoo, make_engine, ids, caplog):
    engine = make_engine()
    with caplog.at_level(logging.WARNING):
        engine.pin(["f" * 64, zoo.shas["lora"]])
    assert names_in(engine) == [zoo.shas["lora"]] and "not in the storage" in caplog.text


def test_a_pinned_model_of_its_own_leaves_after_the_others(zoo, make_engine, ids):
    engine = make_engine(own_bytes=2 * ROOM_FOR_ONE)
    engine.pin([zoo.shas["full"]])
    for kind in ("full", "last_k", "output_layers", "dora", "last_k"):
        ask(zoo, engine, kind, ids=ids)
        assert zoo.shas["full"] in [about["artifact"] for about in engine.own.resident()]
    assert sum(about["bytes"] for about in engine.own.resident()) <= 2 * ROOM_FOR_ONE


def test_adapters_that_are_deleted_while_their_rows_run_stay_with_the_rows(zoo, make_engine, tmp_path, ids):
    for kind in ("lora", "prompt_tuning", "last_k"):
        shutil.copytree(zoo.folder / zoo.shas[kind], tmp_path / zoo.shas[kind])
    engine = make_engine(artifact_folder=lambda sha: tmp_path / sha, adapter_bytes=1)
    kinds = ["plain", "lora", "prompt_tuning", "last_k"]
    for kind in kinds:
        engine.submit(request_of(zoo, kind, ids, max_tokens=12))
    events = [event for _ in range(8) for event in engine.step()]
    for kind in kinds[1:]:
        shutil.rmtree(tmp_path / zoo.shas[kind])
    outcome = run(engine, [request_of(zoo, kind, ids, name=f"new {kind}") for kind in ("lora", "prompt_tuning")])
    outcome.events[:0] = events
    for kind in kinds:
        assert outcome.ids(kind) == zoo.greedy(kind, ids, 12, engine.stop_ids)
    assert "not in the storage" in str(outcome.failed("new lora").error)


def test_a_model_of_its_own_that_is_deleted_before_it_is_loaded_fails_its_rows_alone(zoo, make_engine, tmp_path, ids):
    shutil.copytree(zoo.folder / zoo.shas["last_k"], tmp_path / zoo.shas["last_k"])
    executor = LateExecutor()
    engine = make_engine(artifact_folder=lambda sha: tmp_path / sha, executor=executor)
    engine.submit(request_of(zoo, "plain", ids, max_tokens=20))
    engine.submit(request_of(zoo, "last_k", ids))
    events = [*engine.step()]
    executor.release()
    events += engine.step()
    shutil.rmtree(tmp_path / zoo.shas["last_k"])
    executor.release()
    outcome = run(engine)
    outcome.events[:0] = events
    assert isinstance(outcome.failed("last_k").error, ArtifactError)
    assert outcome.ids("plain") == zoo.greedy("plain", ids, 20, engine.stop_ids)
