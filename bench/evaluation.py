"""How much an evaluation gains by the engine's batch, and what many labels cost. Last line: one JSON object.

    python bench/evaluation.py --models var/models [--base smollm2-135m-instruct] [--rows 64] [--tokens 48] [--quick]
                               [--texts DIR] [--labels DIR]

1. `vs_generate`: rows answered greedily by the engine ÷ one after another by transformers' `model.generate`, at the
   same outputs (the share of rows whose texts are equal is printed; both compute in fp32). Goal: 5. The rows are put as
   a data set's mapping puts them: one instruction around each text, whose values the engine keeps.
2. `labels_77_vs_1`: scoring 77 labels ÷ scoring one, per row, on the same prompts, each read whole. Goal: at most 3.
   `labels_7_vs_1` beside it, and `labels_77_vs_1_kept_cpu` for prompts whose beginning is kept, so that the one label
   costs less.

Seconds are of the wall; the `…_cpu` figures count processor seconds, which other work on the machine changes little.
Interleaved, medians over the repetitions. The model is plain: it is unsure of every label, so more of them must be read
than of one that was trained. Rows are made up here; `--texts` and `--labels` take folders of data sets instead
(test.jsonl with prompt and completion; meta.json with labels). Redis is not part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ml.backbone import Backbone, load_backbone, model_folder
from ml.data.chat import completion_ids, prompt_ids, stop_ids
from ml.engine.beginnings import MIN_TOKENS
from ml.engine.choices import n_nodes
from ml.engine.engine import Engine
from ml.engine.types import Done, Failed, Request, Sampling

VERBS = ("activate", "cancel", "change", "check", "find", "open", "pay", "report", "request", "track", "verify")
NOUNS = ("a card payment", "an account", "a refund", "a bank transfer", "the exchange rate", "a new PIN", "an address")
LABELS = [f"{verb} {noun}" for noun in NOUNS for verb in VERBS]
ANSWERED = "Answer the bank customer's message in two sentences, politely and to the point.\nMessage: {}\nAnswer:"
NEVER = 1 << 30


class Spent(NamedTuple):
    wall: float
    cpu: float


def rows_of(folder: Path | None, n_rows: int, around: str = "{}") -> list[str]:
    """The users' turns: of a data set's test rows, or made up, of different lengths."""
    if folder is not None:
        with (folder / "test.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line)["prompt"] for line, _ in zip(file, range(n_rows), strict=False)]
    return [
        around.format(f"Message {n}: I would like to {LABELS[n % 77]}. "
                      + "It has been like this for a while. " * (n % 4) + "What should I do?")
        for n in range(n_rows)
    ]  # fmt: skip


def labels_of(folder: Path | None) -> list[str]:
    return LABELS if folder is None else json.loads((folder / "meta.json").read_text(encoding="utf-8"))["labels"]


def prompts_of(backbone: Backbone, texts: Sequence[str]) -> list[list[int]]:
    return [prompt_ids(backbone.tokenizer, [{"role": "user", "content": text}]) for text in texts]


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


def timed(action: Callable[[], Any]) -> tuple[Spent, Any]:
    began, used = time.perf_counter(), time.process_time()
    result = action()
    return Spent(time.perf_counter() - began, time.process_time() - used), result


def median(found: Sequence[Spent]) -> Spent:
    return Spent(*(statistics.median(values) for values in zip(*found, strict=True)))


def engine_for(backbone: Backbone, n_slots: int, *, keeps: bool) -> Engine:
    """Warm; `keeps` beginnings of prompts that come again."""
    least = MIN_TOKENS if keeps else NEVER
    engine = Engine(backbone, artifact_folder=Path, n_slots=n_slots, length=1024, min_shared_tokens=least)
    ids = tuple(prompts_of(backbone, ["Hello?"])[0])
    through_engine(engine, [Request(id="w", team_id=1, prompt_ids=ids, sampling=Sampling(max_tokens=4))])
    return engine


def writing(
    engine: Engine, plain: Backbone, prompts: Sequence[list[int]], *, n_tokens: int, times: int
) -> dict[str, Any]:
    """`plain` answers one by one, as transformers loads it."""
    stop = stop_ids(engine.backbone.tokenizer, engine.backbone.model.generation_config)
    requests = [
        Request(id=str(n), team_id=1, prompt_ids=tuple(ids), sampling=Sampling(max_tokens=n_tokens))
        for n, ids in enumerate(prompts)
    ]
    ours, theirs, same = [], [], 0.0
    for _ in range(times):
        spent, found = timed(lambda: through_engine(engine, requests))
        ours.append(spent)
        spent, texts = timed(lambda: one_by_one(plain, prompts, n_tokens, stop))
        theirs.append(spent)
        same = sum(found[str(n)].text == text for n, text in enumerate(texts)) / len(texts)
        print(
            f"written: engine {ours[-1].wall:.1f} s ({ours[-1].cpu:.1f} of a processor), one by one "
            f"{theirs[-1].wall:.1f} s ({theirs[-1].cpu:.1f}), {same:.0%} of the texts equal", flush=True,
        )  # fmt: skip
    mine, other = median(ours), median(theirs)
    return {
        "vs_generate": round(other.wall / mine.wall, 2), "vs_generate_cpu": round(other.cpu / mine.cpu, 2),
        "engine_s": round(mine.wall, 2), "generate_s": round(other.wall, 2), "same_texts": round(same, 3),
        "prompt_tokens": round(sum(map(len, prompts)) / len(prompts), 1),
    }  # fmt: skip


def scoring(engine: Engine, prompts: Sequence[list[int]], labels: Sequence[str], *, times: int) -> dict[int, Spent]:
    """What scoring one, seven and all labels took, for all prompts."""
    choices = [tuple(completion_ids(engine.backbone.tokenizer, label)) for label in labels]
    spent: dict[int, list[Spent]] = {1: [], 7: [], len(choices): []}
    for _ in range(times):
        for n_labels in spent:
            requests = [
                Request(id=f"{n}", team_id=1, prompt_ids=tuple(ids), choices=tuple(choices[:n_labels]), writes=False)
                for n, ids in enumerate(prompts)
            ]
            spent[n_labels].append(timed(lambda given=requests: through_engine(engine, given))[0])  # type: ignore[misc]
        print("scored: " + ", ".join(f"{n} labels {found[-1].wall:.2f} s ({found[-1].cpu:.2f} of a processor)"
                                     for n, found in spent.items()), flush=True)  # fmt: skip
    return {n: median(found) for n, found in spent.items()}


def of_labels(backbone: Backbone, args: argparse.Namespace) -> dict[str, Any]:
    labels, prompts = labels_of(args.labels), prompts_of(backbone, rows_of(args.labels, args.label_rows))
    whole = scoring(engine_for(backbone, args.slots, keeps=False), prompts, labels, times=args.times)
    asked = prompts_of(backbone, rows_of(args.labels, args.label_rows, ANSWERED))
    kept = scoring(engine_for(backbone, args.slots, keeps=True), asked, labels, times=args.times)
    n = len(labels)
    choices = [tuple(completion_ids(backbone.tokenizer, label)) for label in labels]
    return {
        f"labels_{n}_vs_1": round(whole[n].wall / whole[1].wall, 2),
        f"labels_{n}_vs_1_cpu": round(whole[n].cpu / whole[1].cpu, 2),
        "labels_7_vs_1": round(whole[7].wall / whole[1].wall, 2),
        f"labels_{n}_vs_1_kept_cpu": round(kept[n].cpu / kept[1].cpu, 2),
        "ms_a_row_1": round(1000 * whole[1].cpu / len(prompts), 1),
        f"ms_a_row_{n}": round(1000 * whole[n].cpu / len(prompts), 1), "label_tokens": n_nodes(choices),
        "label_prompt_tokens": round(sum(map(len, prompts)) / len(prompts), 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("var/models"))
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument(
        "--rows", type=int, default=64, help="twice the slots, as an evaluation has more rows than slots"
    )
    parser.add_argument("--label-rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--texts", type=Path, help="a data set's folder for the written answers")
    parser.add_argument("--labels", type=Path, help="a data set's folder for the scored labels")
    parser.add_argument("--quick", action="store_true", help="8 rows of 12 tokens, 4 with labels, once: does it run?")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.label_rows, args.tokens, args.times = 8, 4, 12, 1
    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    load = os.getloadavg()[0]
    plain, backbone = (load_backbone(model_folder(args.models, args.base)) for _ in range(2))
    prompts = prompts_of(backbone, rows_of(args.texts, args.rows, ANSWERED))
    engine = engine_for(backbone, args.slots, keeps=True)
    found = {**writing(engine, plain, prompts, n_tokens=args.tokens, times=args.times), **of_labels(backbone, args)}
    print("goals: vs_generate >= 5, labels_77_vs_1 <= 3")
    about = {
        **{name: getattr(args, name) for name in ("base", "rows", "label_rows", "tokens", "slots", "times")},
        "texts": str(args.texts or "made up"), "labels": str(args.labels or "made up"),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "transformers": transformers.__version__,
        "machine": platform.machine(), "cpu": platform.processor(), "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    print(json.dumps({"bench": "evaluation", **found, **about}))


if __name__ == "__main__":
    main()
