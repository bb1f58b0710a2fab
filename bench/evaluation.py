"""How much an evaluation gains by the engine's batch, and what many labels cost. Last line: one JSON object.

    python bench/evaluation.py --models var/models [--base smollm2-135m-instruct] [--rows 32] [--tokens 48] [--quick]

1. `vs_generate`: rows answered greedily by the engine ÷ one after another by `model.generate`, at the same outputs (the
   share of rows whose texts are equal is printed; both compute in fp32). Goal: 5.
2. `labels_77_vs_1`: scoring 77 labels ÷ scoring one, per row, on the same prompts. Goal: at most 3. `labels_7_vs_1`
   beside it.

Interleaved, medians over the repetitions. Rows are made up here: no data set is needed. Redis is not part of it: the
overhead of the streams is measured by bench/serving.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ml.backbone import Backbone, load_backbone, model_folder
from ml.data.chat import completion_ids, prompt_ids, stop_ids
from ml.engine.choices import n_nodes
from ml.engine.engine import Engine
from ml.engine.types import Done, Failed, Request, Sampling

VERBS = ("activate", "cancel", "change", "check", "find", "open", "pay", "report", "request", "track", "verify")
NOUNS = ("a card payment", "an account", "a refund", "a bank transfer", "the exchange rate", "a new PIN", "an address")
LABELS = [f"{verb} {noun}" for noun in NOUNS for verb in VERBS]


def prompts_of(backbone: Backbone, n_rows: int) -> list[list[int]]:
    """Questions of different lengths, as a data set's rows are."""
    found = []
    for n in range(n_rows):
        text = f"Message {n}: I would like to {LABELS[n % 77]}. " + "It has been like this for a while. " * (n % 4)
        found.append(prompt_ids(backbone.tokenizer, [{"role": "user", "content": text + "What should I do?"}]))
    return found


def through_engine(engine: Engine, requests: Sequence[Request]) -> dict[str, Done]:
    for request in requests:
        engine.submit(request)
    found: dict[str, Done] = {}
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                found[event.id] = event
    return found


def one_by_one(backbone: Backbone, prompts: Sequence[list[int]], n_tokens: int, stop: set[int]) -> list[str]:
    texts = []
    for ids in prompts:
        given = torch.tensor([ids])
        out = backbone.model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=n_tokens, do_sample=False,
            eos_token_id=sorted(stop), pad_token_id=min(stop), repetition_penalty=1.0,
        )  # fmt: skip
        texts.append(backbone.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
    return texts


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def writing(engine: Engine, prompts: Sequence[list[int]], *, n_tokens: int, times: int) -> dict[str, Any]:
    stop = stop_ids(engine.backbone.tokenizer, engine.backbone.model.generation_config)
    requests = [
        Request(id=str(n), team_id=1, prompt_ids=tuple(ids), sampling=Sampling(max_tokens=n_tokens))
        for n, ids in enumerate(prompts)
    ]
    ours, theirs, same = [], [], 0.0
    for _ in range(times):
        seconds, found = timed(lambda: through_engine(engine, requests))
        ours.append(seconds)
        seconds, texts = timed(lambda: one_by_one(engine.backbone, prompts, n_tokens, stop))
        theirs.append(seconds)
        same = sum(found[str(n)].text == text for n, text in enumerate(texts)) / len(texts)
        print(
            f"written: engine {ours[-1]:.1f} s, one by one {theirs[-1]:.1f} s, {same:.0%} of the texts equal",
            flush=True,
        )
    ratio = statistics.median(theirs) / statistics.median(ours)
    return {"vs_generate": round(ratio, 2), "engine_s": round(statistics.median(ours), 2),
            "generate_s": round(statistics.median(theirs), 2), "same_texts": round(same, 3)}  # fmt: skip


def scoring(engine: Engine, prompts: Sequence[list[int]], *, times: int) -> dict[str, Any]:
    labels = [tuple(completion_ids(engine.backbone.tokenizer, label)) for label in LABELS]
    seconds: dict[int, list[float]] = {1: [], 7: [], 77: []}
    for _ in range(times):
        for n_labels in seconds:
            requests = [
                Request(id=f"{n}", team_id=1, prompt_ids=tuple(ids), choices=tuple(labels[:n_labels]), writes=False)
                for n, ids in enumerate(prompts)
            ]
            seconds[n_labels].append(timed(lambda given=requests: through_engine(engine, given))[0])  # type: ignore[misc]
        print("scored: " + ", ".join(f"{n} labels {found[-1]:.2f} s" for n, found in seconds.items()), flush=True)
    medians = {n: statistics.median(found) for n, found in seconds.items()}
    return {
        "labels_77_vs_1": round(medians[77] / medians[1], 2), "labels_7_vs_1": round(medians[7] / medians[1], 2),
        "ms_a_row_1": round(1000 * medians[1] / len(prompts), 1),
        "ms_a_row_77": round(1000 * medians[77] / len(prompts), 1), "nodes_77": n_nodes(labels),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("var/models"))
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="8 rows of 12 tokens, once: does it run?")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.tokens, args.times = 8, 12, 1
    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    backbone = load_backbone(model_folder(args.models, args.base))
    backbone.model.eval()
    engine = Engine(backbone, artifact_folder=Path, n_slots=args.slots, length=512)
    prompts = prompts_of(backbone, args.rows)
    through_engine(engine, [Request(id="w", team_id=1, prompt_ids=tuple(prompts[0]), sampling=Sampling(max_tokens=4))])
    found = {**writing(engine, prompts, n_tokens=args.tokens, times=args.times),
             **scoring(engine, prompts, times=args.times)}  # fmt: skip
    print("goals: vs_generate >= 5, labels_77_vs_1 <= 3")
    about = {"base": args.base, "rows": args.rows, "tokens": args.tokens, "slots": args.slots, "times": args.times,
             "threads": torch.get_num_threads(), "torch": torch.__version__, "transformers": transformers.__version__,
             "machine": platform.machine(), "cpu": platform.processor()}  # fmt: skip
    print(json.dumps({"bench": "evaluation", **found, **about}))


if __name__ == "__main__":
    main()
