"""What `bench/engine.py` measures of the engine itself: adapters to serve, batches that decode, first tokens.

Adapters are random ones in plain peft's files: their values do not matter for speed. `Clock` is wall or processor time;
the latter counts every thread of the process, loading included.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file

from ml.artifact import artifact_id
from ml.backbone import Backbone
from ml.engine.engine import Engine
from ml.engine.types import Failed, Request, Sampling, Token
from ml.files import stamp, write_json

Clock = Callable[[], float]
PREFIX_TOKENS = (4, 8, 12, 16, 20)
SOFT_TOKENS = 20
"""Of each of the many soft prompts."""
N_LORA, RANK = 16, 8


@dataclass(frozen=True)
class Adapters:
    folder: Path
    prefixes: list[str]
    """Prompt tuning and prefix-tuning in turn, of several lengths."""
    loras: list[str]
    """Rank 8 on every linear layer."""

    def tasks(self, kind: str, n_rows: int) -> list[str | None]:
        """The rows of a batch."""
        prefixes, loras = self.prefixes, self.loras
        choices: dict[str, list[str | None]] = {
            "plain": [None],
            "mixed_prefix": [None, *prefixes],
            "lora16": list(loras),
            "mixed_all": [None, prefixes[-2], loras[0], prefixes[-1], loras[1], prefixes[3], loras[2], loras[3]],
        }
        return [choices[kind][i % len(choices[kind])] for i in range(n_rows)]


def register(stage: Path, backbone: Backbone, method: str, form: str) -> str:
    """Makes what plain peft has saved in `stage` an artifact: its folder is called by its sha256 afterwards."""
    manifest = {
        "schema": 1, "method": method, "form": form,
        "base": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        "dataset": {"name": "none", "sha256": ""}, "spec": {}, "seed": 0, "versions": {}, "metrics": {},
        "files": stamp(stage),
    }  # fmt: skip
    write_json(stage / "manifest.json", manifest)
    sha = artifact_id(stage)
    stage.rename(stage.parent / sha)
    return sha


def linear_names(model: Any) -> list[str]:
    """The last parts of the names of all linear layers but the output layer."""
    head = model.get_output_embeddings()
    linear = [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]
    return sorted({name.rpartition(".")[2] for name in linear})


def lora_model(model: Any) -> Any:
    """A PeftModel with random LoRA adapters lora0, lora1, …"""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=RANK, target_modules=linear_names(model), init_lora_weights=False)
    torch.manual_seed(0)
    found = peft.get_peft_model(model, config, adapter_name="lora0")
    for n in range(1, N_LORA):
        found.add_adapter(f"lora{n}", config)
    return found.eval().requires_grad_(False)


def make_adapters(folder: Path, backbone: Backbone, loras: Any) -> Adapters:
    """`loras`: a PeftModel as `lora_model` makes it, whose adapters are saved."""
    prefixes = []
    for n in PREFIX_TOKENS:
        for name, config in (
            (f"prompt{n}", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=n)),
            (f"prefix{n}", peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=n)),
        ):
            peft.get_peft_model(backbone.model, config).save_pretrained(folder / name)
            prefixes.append(register(folder / name, backbone, "prompt_tuning", "prefix_kv"))
    backbone.model.requires_grad_(False)
    names = [f"lora{n}" for n in range(N_LORA)]
    loras.save_pretrained(folder, selected_adapters=names)
    return Adapters(folder, prefixes, [register(folder / name, backbone, "lora", "lora_delta") for name in names])


def make_soft_prompts(folder: Path, backbone: Backbone, like: Path, n: int) -> list[str]:
    """n artifacts of prompt tuning, each with numbers of its own; `like`: the folder of one."""
    width = backbone.model.get_input_embeddings().embedding_dim
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(n):
        stage = folder / "stage"
        stage.mkdir()
        (stage / "adapter_config.json").write_bytes((like / "adapter_config.json").read_bytes())
        prompt = torch.randn(SOFT_TOKENS, width, generator=generator) * 0.05
        save_file({"prompt_embeddings": prompt}, stage / "adapter_model.safetensors")
        found.append(register(stage, backbone, "prompt_tuning", "prefix_kv"))
    return found


def _step(engine: Engine) -> list[Any]:
    events = engine.step()
    for event in events:
        if isinstance(event, Failed):
            raise SystemExit(f"row {event.id} failed: {event.error.message}")
    return events


def submit_all(
    engine: Engine, tasks: Sequence[str | None], ids: Sequence[int], n: int, *, temperature: float = 0, label: str = ""
) -> None:
    """Without a label each row has a name of its own, so that none copies the beginning of another's prompt."""
    for row, task in enumerate(tasks):
        sampling = Sampling(max_tokens=n, seed=row, temperature=temperature)
        engine.submit(Request(id=f"{row}", team_id=1, prompt_ids=tuple(ids), artifact=task, sampling=sampling,
                              label=label or f"{engine.n_steps} {row}"))  # fmt: skip


def decode_speed(
    engine: Engine, tasks: Sequence[str | None], ids: Sequence[int], steps: int, clock: Clock, temperature: float = 0
) -> float:
    """tok/s of `steps` steps in which every row decodes; the prompts are read, or copied, before."""
    submit_all(engine, tasks, ids, steps + 40, temperature=temperature, label="decode")
    while engine.scheduler.table.n_decoding < len(tasks):
        _step(engine)
        engine.wait(0.05)
    _step(engine)
    started = clock()
    for _ in range(steps):
        _step(engine)
    seconds = clock() - started
    if engine.scheduler.table.n_decoding != len(tasks):
        raise SystemExit("a row ended during the measurement")
    for row in range(len(tasks)):
        engine.cancel(str(row))
    _step(engine)
    return len(tasks) * steps / seconds


def serve_seconds(engine: Engine, tasks: Sequence[str | None], ids: Sequence[int], n: int, clock: Clock) -> float:
    """From the requests to the last of n tokens of every answer."""
    started = clock()
    submit_all(engine, tasks, ids, n)
    while not engine.is_idle:
        _step(engine)
        engine.wait(0.05)
    return clock() - started


def first_token_seconds(engine: Engine, request: Request, clock: Clock) -> float:
    started = clock()
    engine.submit(request)
    while not any(isinstance(event, Token) for event in _step(engine)):
        engine.wait(0.05)
    seconds = clock() - started
    engine.cancel(request.id)
    _step(engine)
    return seconds


def cached_first_tokens(
    engine: Engine, vocabulary: int, repetitions: int, clock: Clock, *, shots: int = 500, question: int = 32
) -> list[tuple[float, float]]:
    """Seconds to the first token behind a few-shot block that is kept, and behind one that is new."""
    rng = random.Random(1)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(100, vocabulary) for _ in range(n))

    def ask(block: tuple[int, ...], label: str) -> float:
        request = Request(id="r", team_id=1, prompt_ids=block + ids(question), label=label,
                          sampling=Sampling(max_tokens=2))  # fmt: skip
        return first_token_seconds(engine, request, clock)

    kept = ids(shots)
    for _ in range(2):
        ask(kept, "kept")
    return [(ask(kept, "kept"), ask(ids(shots), f"new {n}")) for n in range(repetitions)]


def many_first_tokens(
    engine: Engine, tasks: Sequence[str], vocabulary: int, n_touched: int, n_prompt: int, clock: Clock
) -> tuple[list[float], list[float]]:
    """Seconds to the first token of tasks touched at random, and of one hot task in turn with them."""
    rng, touched, hot = random.Random(2), [], []

    def ask(task: str) -> float:
        ids = tuple(rng.randrange(100, vocabulary) for _ in range(n_prompt))
        request = Request(id="r", team_id=1, prompt_ids=ids, artifact=task, sampling=Sampling(max_tokens=2))
        return first_token_seconds(engine, request, clock)

    ask(tasks[0])
    for _ in range(n_touched):
        touched.append(ask(tasks[rng.randrange(1, len(tasks))]))
        hot.append(ask(tasks[0]))
    return touched, hot


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]
