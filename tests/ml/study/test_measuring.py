"""Every test row answered by the engine: as the objectives answer, with votes, and with a reason where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml.artifact import load_adapter
from ml.backbone import Backbone, load_backbone
from ml.cli_study import long_lived
from ml.data.chat import prompt_ids, stop_ids
from ml.data.rows import Dataset, read_dataset
from ml.engine.own import sharing
from ml.evaluate.scoring import generate_greedy
from ml.objectives import objective_for
from ml.retrieval.sources import sources_prompt
from ml.specs import METHODS
from ml.specs.prompting import Frame
from ml.specs.voting import extract, vote
from ml.study.asking import AS_ROWS, Asked, Asking
from ml.study.measuring import Measuring, by_objective
from ml.study.passages import Passages
from tests.ml.running import tiny_spec, train_whole
from tests.ml.study.studying import Studying, small_spec

FORMS = ["prompt_tuning", "prefix_tuning", "lora", "ia3", "head", "output_layers"]
"""A technique of each serving form."""


class Stopped(Exception):
    pass


@pytest.fixture(scope="module", autouse=True)
def as_in_a_study() -> Iterator[None]:
    with long_lived():
        yield


@pytest.fixture(scope="module")
def backbone(study_models: Path) -> Backbone:
    return load_backbone(study_models / "llama")


@pytest.fixture(scope="module")
def data(studying: Studying) -> dict[str, Dataset]:
    return {task: read_dataset(folder) for task, folder in studying.datasets.items()}


def measuring(backbone: Backbone, dataset: Dataset, **sizes: int) -> Measuring:
    own = replace(backbone, model=sharing(backbone.model))  # an engine makes itself at home in its modules
    return Measuring(own, dataset, {}, **{"length": 256, "max_tokens": 6, **sizes})


def answers(
    found: Measuring, asked: Asked = AS_ROWS, *, artifact: Path | None = None, seed: int = 17,
    check: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:  # fmt: skip
    return found.answers(asked, artifact=artifact, seed=seed, check=check, progress=lambda *_: None)


def gots(lines: list[dict[str, Any]]) -> list[str]:
    return [line["got"] for line in lines]


def best(labels: list[str], scores: list[list[float]]) -> list[str]:
    return [labels[max(range(len(labels)), key=row.__getitem__)] for row in scores]


def written(backbone: Backbone, messages: list[list[dict[str, str]]], n: int) -> list[str]:
    """Greedy answers, each row alone."""
    stop = stop_ids(backbone.tokenizer, backbone.model.generation_config)
    prompts = [prompt_ids(backbone.tokenizer, one) for one in messages]
    ids = [generate_greedy(backbone.model, [prompt], max_tokens=n, stop=stop)[0] for prompt in prompts]
    return [backbone.tokenizer.decode(one, skip_special_tokens=True).strip() for one in ids]


def unasked(texts: Sequence[str]) -> Any:
    raise AssertionError("nothing here needs embeddings")


def chain(dataset: Dataset, n_votes: int = 1) -> Asked:
    name = "self_consistency" if n_votes > 1 else "chain_of_thought"
    made = Asking(small_spec(dataset.task, n_votes=max(2, n_votes)), dataset, {}, unasked)
    return made.technique(name, 17)


@pytest.mark.parametrize("name", ["plain", *FORMS])
def test_labels_are_those_that_the_objective_finds_likeliest(
    name: str, study_models: Path, studying: Studying, data: dict[str, Dataset], tmp_path: Path, backbone: Backbone
) -> None:
    dataset, folder = data["classification"], studying.datasets["classification"]
    spec = tiny_spec("lora" if name == "plain" else name, base="llama", steps=3, learning_rate=0.05, eval_rows=0)
    labels = dataset.labels if METHODS[spec.method].storage == "head" else None
    base = load_backbone(study_models / "llama", labels=labels)
    model = base.model
    if name != "plain":
        train_whole(spec, model=study_models / "llama", dataset=folder, workdir=tmp_path)
        model = load_adapter(base, tmp_path / "out").eval()
    scores = objective_for(spec, base, dataset, 96).label_scores(model, dataset.splits["test"], lambda: None)
    artifact = tmp_path / "out" if name != "plain" else None
    lines = answers(measuring(backbone, dataset), artifact=artifact)
    assert gots(lines) == best(dataset.labels, scores)
    assert [line["scores"] for line in lines] == [pytest.approx(row, abs=1e-3) for row in scores]
    assert [line["row"] for line in lines] == [row.number for row in dataset.splits["test"]]


def test_free_answers_are_those_of_the_model_alone(backbone: Backbone, data: dict[str, Dataset]) -> None:
    rows = data["generation"].splits["test"]
    lines = answers(measuring(backbone, data["generation"]))
    assert gots(lines) == written(backbone, [row.messages for row in rows], 6)
    assert not any("text" in line or "scores" in line for line in lines)
    assert all(line["tokens_out"] <= 6 and line["tokens_in"] > 0 for line in lines)


def test_an_answer_is_found_behind_its_steps(backbone: Backbone, data: dict[str, Dataset]) -> None:
    dataset = data["generation"]
    asked = replace(chain(dataset), frame=replace(chain(dataset).frame, rule={"kind": "last_line"}))
    lines = answers(measuring(backbone, dataset), asked)
    texts = written(backbone, [asked.messages(row, {}) for row in dataset.splits["test"]], 6)
    assert [line["text"] for line in lines] == texts
    assert gots(lines) == [extract({"kind": "last_line"}, text) or "" for text in texts]


def test_steps_without_an_answer_are_no_answer(backbone: Backbone, data: dict[str, Dataset]) -> None:
    """A random model names no label; what it wrote is kept to be read."""
    lines = answers(measuring(backbone, data["classification"]), chain(data["classification"]))
    assert set(gots(lines)) == {""}
    assert all(line["text"] and "scores" not in line for line in lines)


def test_chains_are_sampled_and_vote(backbone: Backbone, data: dict[str, Dataset], monkeypatch: Any) -> None:
    dataset = data["generation"]
    asked = chain(dataset, n_votes=3)
    asked = replace(asked, frame=replace(asked.frame, rule={"kind": "last_line"}))
    counted: list[list[str]] = []

    def counting(rule: Any, texts: list[str]) -> Any:
        counted.append(texts)
        return vote(rule, texts)

    monkeypatch.setattr("ml.study.measuring.vote", counting)
    lines = answers(measuring(backbone, dataset), asked)
    assert [len(texts) for texts in counted] == [3] * len(lines)
    assert any(len(set(texts)) > 1 for texts in counted)
    won = [vote({"kind": "last_line"}, texts) for texts in counted]
    assert gots(lines) == [one.answer or "" for one in won]
    assert [line["text"] for line in lines] == [texts[one.chosen] for texts, one in zip(counted, won, strict=True)]
    assert all(line["tokens_out"] > 6 for line in lines)


def test_the_seed_decides_what_is_sampled(backbone: Backbone, data: dict[str, Dataset]) -> None:
    found, asked = measuring(backbone, data["generation"]), chain(data["generation"], n_votes=2)
    first, again, other = (answers(found, asked, seed=seed) for seed in (17, 17, 18))
    assert [line["text"] for line in first] == [line["text"] for line in again]
    assert [line["text"] for line in first] != [line["text"] for line in other]


def only_short_rows_fit(backbone: Backbone, dataset: Dataset, fits: int) -> Dataset:
    """Of three test rows the first `fits` are short."""
    rows = dataset.splits["test"][:3]
    long = [{"role": "user", "content": "very long " * 60}]
    rows = [row if place < fits else replace(row, messages=long) for place, row in enumerate(rows)]
    return replace(dataset, splits={**dataset.splits, "test": rows})


def test_a_row_that_is_too_long_counts_as_wrong_and_says_why(backbone: Backbone, data: dict[str, Dataset]) -> None:
    dataset = only_short_rows_fit(backbone, data["classification"], fits=2)
    lines = answers(measuring(backbone, dataset, length=64))
    assert lines[2]["got"] == ""
    assert lines[2]["error"]["code"] == "context_too_long"
    assert "scores" not in lines[2]
    assert not any("error" in line for line in lines[:2])


@pytest.mark.parametrize("fits", [0, 2])
def test_rows_that_were_refused_leave_later_ones_alone(backbone: Backbone, data: dict[str, Dataset], fits: int) -> None:
    """Their requests were taken back when there was nothing to take back, and the next technique's went instead."""
    long = only_short_rows_fit(backbone, data["classification"], fits=fits)
    calm = answers(measuring(backbone, replace(long, splits=data["classification"].splits), length=64))
    found = measuring(backbone, long, length=64)
    refused = answers(found)
    assert [line["row"] for line in refused if "error" in line] == [line["row"] for line in refused[fits:]]
    found.dataset = data["classification"]
    assert gots(answers(found)) == gots(calm)


@pytest.mark.parametrize("nth", [1, 2, 4])
def test_interrupted_it_leaves_an_idle_engine_that_answers_as_before(
    backbone: Backbone, data: dict[str, Dataset], nth: int
) -> None:
    found, calls = measuring(backbone, data["generation"]), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise Stopped

    with pytest.raises(Stopped):
        answers(found, check=check)
    assert found.engine.is_idle
    assert gots(answers(found)) == gots(answers(measuring(backbone, data["generation"])))


def test_a_failure_to_tell_leaves_an_idle_engine_too(backbone: Backbone, data: dict[str, Dataset]) -> None:
    found = measuring(backbone, data["generation"])

    def progress(done: int, total: int) -> None:
        if done == 1:
            raise Stopped

    with pytest.raises(Stopped):
        found.answers(AS_ROWS, artifact=None, seed=17, check=lambda: None, progress=progress)
    assert found.engine.is_idle
    assert gots(answers(found)) == gots(answers(measuring(backbone, data["generation"])))


def test_progress_is_told_over_all_rows(backbone: Backbone, data: dict[str, Dataset]) -> None:
    told: list[tuple[int, int]] = []
    measuring(backbone, data["classification"]).answers(
        AS_ROWS, artifact=None, seed=17, check=lambda: None, progress=lambda *both: told.append(both)
    )
    assert told[-1] == (10, 10)
    assert told == sorted(told)


def test_longer_slots_are_fewer(backbone: Backbone, data: dict[str, Dataset], monkeypatch: Any) -> None:
    monkeypatch.setattr("ml.study.measuring.MOST_POSITIONS", 1024)
    assert measuring(backbone, data["generation"], length=256).engine.runner.cache.n_slots == 4
    assert measuring(backbone, data["generation"], length=512).engine.runner.cache.n_slots == 2
    assert measuring(backbone, data["generation"], length=32).engine.runner.cache.n_slots == 16


@pytest.mark.parametrize(
    ("shape", "task"), [("bert", "classification"), ("t5", "classification"), ("t5", "generation")]
)
def test_other_families_answer_through_their_objective(
    shape: str, task: str, study_models: Path, data: dict[str, Dataset]
) -> None:
    dataset = data[task]
    base = load_backbone(study_models / shape, labels=dataset.labels if shape == "bert" else None)
    made = objective_for(tiny_spec(base=shape), base, dataset, 96)
    rows = dataset.splits["test"]
    base.model.train()  # as a training leaves it, with dropout
    lines = by_objective(made, base.model, dataset, check=lambda: None, progress=lambda *_: None)
    if task == "classification":
        assert gots(lines) == best(dataset.labels, made.label_scores(base.model, rows, lambda: None))
    else:
        assert gots(lines) == [text for text, _ in made.answers(base.model, rows, lambda: None)]
    assert [line["expected"] for line in lines] == [row.completion for row in rows]


def test_a_question_that_is_held_in_a_frame_is_told_as_the_row_has_it(
    backbone: Backbone, data: dict[str, Dataset]
) -> None:
    asked = Asked(frame=Frame(system="Be brief."), examples={}, about={})
    lines = answers(measuring(backbone, data["generation"]), asked)
    assert lines[0]["question"] == data["generation"].splits["test"][0].messages[-1]["content"]


def sourced(dataset: Dataset, texts: dict[int, list[str]], **changes: Any) -> Asked:
    """Retrieval with these passages by the test row's place."""
    rows = dataset.splits["test"]
    passages = Passages(refusal="Nothing here says so.", sha256="5e" * 32, about={"collection": "handbook"},
                        by_question={rows[place].messages[-1]["content"]: [{"text": text} for text in found]
                                for place, found in texts.items()})  # fmt: skip
    spec = small_spec(dataset.task, collection="handbook", **changes)
    return Asking(spec, dataset, {}, unasked, passages).technique("retrieval", 17)


def test_rows_are_asked_with_their_passages_and_answered_without_markers(
    backbone: Backbone, data: dict[str, Dataset]
) -> None:
    dataset = data["generation"]
    texts = ["Snow is white.", "Ash is grey."]
    asked = sourced(dataset, dict.fromkeys(range(len(dataset.splits["test"])), texts))
    prompts = [sources_prompt(asked.messages(row, {}), asked.hits(row, {})) for row in dataset.splits["test"]]
    assert all("Snow is white [1]." in prompt[-1]["content"] for prompt in prompts)
    lines = answers(measuring(backbone, dataset, length=512), asked)
    assert gots(lines) == written(backbone, prompts, 6)
    assert [line["tokens_in"] for line in lines] == [len(prompt_ids(backbone.tokenizer, one)) for one in prompts]


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_where_nothing_is_near_the_refusal_is_the_answer(
    task: str, backbone: Backbone, data: dict[str, Dataset]
) -> None:
    dataset = data[task]
    first, second, *others = answers(measuring(backbone, dataset), sourced(dataset, {0: ["Snow is white."], 1: []}))
    assert first["tokens_in"] > 0 and (first["got"] in dataset.labels or task == "generation")
    said = {"got": "Nothing here says so."} if task == "generation" else {"got": "", "text": "Nothing here says so."}
    for line in (second, *others):
        assert {**line, **said} == line
        assert (line["tokens_in"], line["tokens_out"]) == (0, 0)
        assert "error" not in line


def test_passages_that_do_not_fit_stay_out(backbone: Backbone, data: dict[str, Dataset]) -> None:
    dataset = data["generation"]
    long = "Snow is white and cold. " * 80
    short, both = (sourced(dataset, {0: texts}) for texts in (["Ash is grey."], ["Ash is grey.", long]))
    found = measuring(backbone, dataset, length=512)
    (one, *_), (two, *_) = answers(found, short), answers(found, both)
    assert (one["got"], one["tokens_in"]) == (two["got"], two["tokens_in"])
