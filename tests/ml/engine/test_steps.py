"""Decode steps of fixed shape give what the usual ones give, and hold nothing that a graph cannot hold.

There is no GPU here. What a CUDA graph does to a step is done by make_fx instead: it records the operations with the
addresses and shapes of one run, and its replay does these again, whatever Python would do now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ml.backbone import load_backbone
from ml.engine import readers
from ml.engine.graphs import Graphs
from ml.engine.lora import Delta
from ml.engine.readers import Flex, Masked
from ml.engine.runner import Runner
from ml.engine.steps import rows_of, width_of
from tests.ml.engine.conftest import KINDS, OWN, check_answers
from tests.ml.engine.test_attention import DECODERS
from tests.ml.tiny import save_tiny

READERS = {"mask": Masked, "flex": lambda: Flex(is_compiled=False)}


def recorded(step: Callable[[], Any], inputs: Sequence[torch.Tensor]) -> Callable[[], Any]:
    assert not inputs
    return make_fx(step)()


@pytest.mark.parametrize("reader", READERS)
def test_rows_of_every_form_answer_as_alone(reader, zoo, make_engine, seen_logits):
    engine = make_engine(n_slots=len(KINDS), is_fixed=True)
    engine.runner.steps.reader = READERS[reader]()
    check_answers(zoo, engine, seen_logits, KINDS)


def test_recorded_steps_answer_as_alone_while_rows_come_and_go(zoo, make_engine, seen_logits):
    engine = make_engine(n_slots=5, is_fixed=True)
    engine.runner.steps.graphs = graphs = Graphs(recorded)
    kinds = [kind for kind in KINDS if kind not in OWN]
    check_answers(zoo, engine, seen_logits, kinds)
    check_answers(zoo, engine, seen_logits, kinds[::-1])
    assert graphs.is_on and len(graphs) > 3


def test_a_recorded_step_serves_another_adapter_in_the_same_place(zoo, make_engine, seen_logits):
    engine = make_engine(n_slots=1, is_fixed=True)
    engine.runner.steps.graphs = graphs = Graphs(recorded)
    for kind in ("lora", "lora_other", "lora", "plain", "ia3", "lora_other"):
        check_answers(zoo, engine, seen_logits, [kind])
    assert len(graphs) == 3


def test_recorded_steps_are_forgotten_when_matrices_move_to_other_places(tiny_llama_dir):
    """A graph that has read from the old places would go on doing so."""
    usual, fixed = (Runner(load_backbone(tiny_llama_dir), n_slots=1, length=60, is_fixed=n == 1) for n in (0, 1))
    fixed.steps.graphs = Graphs(recorded)
    for n, rank in enumerate((4, 4, 40, 40, 4, 4)):
        change = Delta(torch.full((rank, 64), 0.1 * n), torch.full((rank, 32), 1 / rank))
        for runner in (usual, fixed):
            runner.sites.set(0, {"model.layers.0.mlp.down_proj": change})
        for _ in range(2):
            expected, got = (runner.forward(0, [[5]], [0]).logits for runner in (usual, fixed))
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert len(fixed.steps.graphs) == 2


@pytest.mark.parametrize("shape", DECODERS)
def test_every_shape_of_decoder_has_the_logits_of_the_usual_forward(shape, tmp_path):
    save_tiny(tmp_path / shape, shape)
    usual, fixed = (
        Runner(load_backbone(tmp_path / shape), n_slots=6, length=200, is_fixed=is_fixed) for is_fixed in (False, True)
    )
    torch.manual_seed(1)
    texts = [torch.randint(3, 300, (n,)).tolist() for n in (3, 150, 20, 90, 1)]
    for runner in (usual, fixed):
        for slot, text in enumerate(texts):
            runner.forward(slot, [text], [0], wants_logits=False)
    for n_rows in (5, 3, 1):
        at = [len(text) for text in texts[:n_rows]]
        expected, got = (runner.forward(0, [[7]] * n_rows, at).logits for runner in (usual, fixed))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_what_lies_in_other_slots_is_neither_read_nor_written(tiny_llama_dir):
    """A batch of three is a step of four: the fourth slot may be of a row that still reads its prompt."""
    runner = Runner(load_backbone(tiny_llama_dir), n_slots=4, length=60, is_fixed=True)
    for slot in range(4):
        runner.forward(slot, [[5, 6, 7]], [0], wants_logits=False)
    before = runner.forward(0, [[8]] * 3, [3] * 3).logits.clone()
    runner.cache.fill(3, float("nan"))
    after = runner.forward(0, [[8]] * 3, [3] * 3)
    assert torch.equal(after.logits, before) and after.states.shape[:2] == (3, 1)
    runner.cache.fill(3, 2.0)
    runner.forward(0, [[8]] * 3, [3] * 3)
    assert all(bool((store[3] == 2).all()) for layer in runner.cache.layers for store in (layer.keys, layer.values))


def test_rows_and_widths_are_rounded_up_to_few_sizes():
    assert [rows_of(n, 24) for n in (1, 2, 3, 5, 16, 17, 24)] == [1, 2, 4, 8, 16, 24, 24]
    widths = [width_of(n, 1000) for n in (1, 128, 129, 300, 400, 513, 800)]
    assert widths == [128, 128, 256, 384, 512, 768, 1000]
    assert all(n <= width_of(n, 5000) < 1.5 * (n + 127) for n in range(1, 5000))
    assert len({width_of(n, 5000) for n in range(1, 5000)}) == 11


def test_a_reader_that_does_not_work_here_makes_room_for_the_next(tiny_llama_dir, monkeypatch, caplog):
    class Wrong(Masked):
        name = "wrong"

        def __call__(self, *given: Any, **settings: Any) -> torch.Tensor:
            return super().__call__(*given, **settings) + 1

    def absent() -> Masked:
        raise ImportError("no such kernel")

    monkeypatch.setattr("ml.engine.steps.readers_for", lambda _: {"absent": absent, "wrong": Wrong, "sdpa": Masked})
    runner = Runner(load_backbone(tiny_llama_dir), n_slots=2, length=40, is_fixed=True)
    assert runner.reads_by == "sdpa"
    assert "no such kernel" in caplog.text and "attention by wrong: its logits differ" in caplog.text


def test_without_a_reader_that_works_rows_decode_in_the_usual_way(tiny_llama_dir, monkeypatch, caplog):
    monkeypatch.setattr("ml.engine.steps.readers_for", lambda _: {})
    runner = Runner(load_backbone(tiny_llama_dir), n_slots=2, length=40, is_fixed=True)
    assert runner.steps is None and "without steps of fixed shape" in caplog.text
    assert runner.forward(0, [[5]], [0]).logits.shape == (1, 384)


def test_on_a_processor_steps_are_the_usual_ones_unless_asked_for(tiny_llama_dir):
    runner = Runner(load_backbone(tiny_llama_dir), n_slots=2, length=40)
    assert runner.steps is None and runner.reads_by == "sdpa"


def test_flash_attention_is_given_the_rows_up_to_their_lengths(monkeypatch):
    """The package cannot be here: its function is spelled out."""

    def flash_attn_with_kvcache(q, k_cache, v_cache, *, cache_seqlens, softmax_scale, causal):
        rows = []
        for r, n in enumerate(cache_seqlens.tolist()):
            k, v = (x[r, :n].repeat_interleave(q.shape[2] // x.shape[2], dim=1) for x in (k_cache, v_cache))
            scores = torch.einsum("qhd,khd->hqk", q[r], k) * softmax_scale
            rows.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
        return torch.stack(rows)

    package = type("package", (), {"flash_attn_with_kvcache": staticmethod(flash_attn_with_kvcache)})
    monkeypatch.setattr(readers, "import_module", lambda name: package)
    query, key, value = torch.randn(3, 4, 1, 8), torch.randn(3, 2, 32, 8), torch.randn(3, 2, 32, 8)
    lengths = torch.tensor([1, 17, 32], dtype=torch.int32)
    module = type("module", (), {"num_key_value_groups": 2, "is_causal": True})
    found = []
    for reader in (Masked(), readers.Flash("flash_attn"), Flex(is_compiled=False)):
        mask = reader.begin(lengths, 32, torch.float32)
        assert len(mask.shape) == 4
        found.append(reader(module, query, key, value, mask, scaling=0.3))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])
