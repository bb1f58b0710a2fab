"""What would make a run fit: changes that are allowed, that help, the cheapest first."""

from __future__ import annotations

from ml.errors import SpecError
from ml.plan import Plan, plan
from ml.plan.remedies import Remedy, remedies
from ml.specs import TrainSpec
from tests.ml.running import tiny_spec
from tests.ml.tiny import tiny_config


def found(spec: TrainSpec, free: int, *, device: str = "cpu") -> list[Remedy]:
    config = tiny_config("llama", {"num_hidden_layers": 12, "hidden_size": 64})

    def again(changed: TrainSpec) -> Plan:
        return plan(changed, config, device=device)

    return remedies(spec, again(spec), free, device=device, again=again)


def needed(spec: TrainSpec) -> int:
    config = tiny_config("llama", {"num_hidden_layers": 12, "hidden_size": 64})
    return plan(spec, config, device="cuda").total


def test_at_most_three_and_the_one_that_costs_nothing_first() -> None:
    spec = tiny_spec("lora", batch_size=8, micro_batch_size=8)
    offered = found(spec, int(0.7 * needed(spec)), device="cuda")
    assert len(offered) == 3
    assert offered[0].changes == {"micro_batch_size": 4}
    assert offered[0].verdict != "does_not_fit"


def test_each_saving_is_the_difference_of_two_plans() -> None:
    spec = tiny_spec("lora", batch_size=8, micro_batch_size=8)
    first = found(spec, int(0.7 * needed(spec)), device="cuda")[0]
    assert first.saved == needed(spec) - needed(tiny_spec("lora", batch_size=8, micro_batch_size=4))


def test_when_nothing_is_enough_the_greatest_savings_come_first() -> None:
    offered = found(tiny_spec("full", batch_size=8, micro_batch_size=8), 1000, device="cuda")
    assert all(remedy.verdict == "does_not_fit" for remedy in offered)
    assert [r.saved for r in offered] == sorted((r.saved for r in offered), reverse=True)


def test_what_the_technique_refuses_is_not_offered() -> None:
    spec = tiny_spec("lora", batch_size=8, micro_batch_size=8)
    large = Plan(runtime=0, weights=10**9, trainables=0, gradients=0, optimizer=0, activations=0, buffers=0)

    def again(changed: TrainSpec) -> Plan:
        if changed.gradient_checkpointing:
            raise SpecError("No.")
        return Plan(runtime=0, weights=10**8, trainables=0, gradients=0, optimizer=0, activations=0, buffers=0)

    offered = remedies(spec, large, 10**9, device="cpu", again=again)
    assert offered
    assert not any("gradient_checkpointing" in remedy.changes for remedy in offered)
