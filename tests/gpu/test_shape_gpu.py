"""Steps of a large shape with random weights in bfloat16: they run, agree with one another, and memory stays."""

from __future__ import annotations

import pytest
import torch

from bench.engine_batches import N_LORA
from bench.engine_roofline import random_backbone, random_deltas
from ml.engine import readers
from ml.engine.attention import NAME
from ml.engine.graphs import Graphs
from ml.engine.readers import Flex, Masked
from ml.engine.runner import Runner
from ml.engine.steps import Steps

SLOTS, LENGTH, PROMPT = 16, 256, 40


@pytest.fixture(scope="module")
def runner(device):
    with torch.inference_mode():
        torch.manual_seed(0)
        backbone = random_backbone("8b" if device == "cuda" else "tiny", device)
        found = Runner(backbone, n_slots=SLOTS, length=LENGTH, is_fixed=True)
        found.vocabulary = backbone.model.config.vocab_size
        yield found


def read_prompts(runner) -> None:
    generator = torch.Generator().manual_seed(3)
    for slot in range(SLOTS):
        ids = torch.randint(3, runner.vocabulary, (PROMPT + slot,), generator=generator).tolist()
        runner.forward(slot, [ids], [0], wants_logits=False)


def decode(runner, n_rows: int, n_steps: int) -> torch.Tensor:
    """Logits [steps, R, V] after the same tokens."""
    found = []
    for step in range(n_steps):
        ids = [[(7 * step + row) % runner.vocabulary] for row in range(n_rows)]
        found.append(runner.forward(0, ids, [PROMPT + row + step for row in range(n_rows)]).logits.clone())
    return torch.stack(found)


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found, expected, atol=5e-2 * (float(expected.abs().max()) + 1), rtol=0)


@torch.inference_mode()
def test_sixteen_rows_decode_from_graphs_as_without(runner, device):
    graphs = runner.steps.graphs
    read_prompts(runner)
    found = decode(runner, SLOTS, 8)
    runner.steps.graphs = Graphs(None)
    near(decode(runner, SLOTS, 8), found)
    runner.steps.graphs = graphs
    assert device == "cpu" or len(graphs) >= 1


@torch.inference_mode()
def test_every_way_of_reading_that_is_here_gives_the_logits_of_the_mask(runner, device):
    read_prompts(runner)
    chosen, runner.steps = runner.steps, Steps(runner.model, runner.cache, runner.sites, Masked())
    expected = decode(runner, 11, 4)
    makers = readers.readers_for(runner.model) if device == "cuda" else {"flex": lambda: Flex(is_compiled=False)}
    for make in makers.values():
        runner.steps = Steps(runner.model, runner.cache, runner.sites, make())
        near(decode(runner, 11, 4), expected)
    runner.steps = chosen
    assert runner.model.config._attn_implementation == NAME


@torch.inference_mode()
def test_sixteen_adapters_decode_from_graphs_as_without(runner):
    read_prompts(runner)
    plain = decode(runner, SLOTS, 3)
    torch.manual_seed(1)
    for slot in range(N_LORA):
        deltas = random_deltas(runner.model)
        for delta in deltas.values():
            delta.a.mul_(0.02)
            delta.b.mul_(0.02)
        runner.sites.set(slot, deltas)
    found, graphs = decode(runner, SLOTS, 6), runner.steps.graphs
    runner.steps.graphs = Graphs(None)
    near(decode(runner, SLOTS, 6), found)
    runner.steps.graphs = graphs
    assert not torch.equal(found[0], plain[0])
    for slot in range(N_LORA):
        runner.sites.set(slot, None)
    near(decode(runner, SLOTS, 3), plain)


@torch.inference_mode()
def test_memory_does_not_grow(runner, device):
    """After each size was seen twice, going through all of them again takes nothing more."""
    read_prompts(runner)

    def through_all_sizes() -> int:
        for n_rows in (1, 2, 3, 5, 9, SLOTS):
            decode(runner, n_rows, 3)
        return torch.cuda.memory_allocated() if device == "cuda" else len(runner.steps.graphs)

    through_all_sizes()
    first = through_all_sizes()
    assert [through_all_sizes() for _ in range(3)] == [first] * 3
