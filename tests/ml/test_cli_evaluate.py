"""`python -m ml evaluate`: an artifact of any family measures what its run measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ml.__main__ import main
from tests.ml.running import Recorder, tiny_spec
from tests.ml.tiny import save_tiny

SHAPES = ("llama", "bert", "t5")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    for shape in SHAPES:
        save_tiny(folder / f"tiny-{shape}", shape)
    return folder


def evaluate(*words: Any, models: Path, dataset: Path) -> tuple[int, Recorder]:
    emit: Any = Recorder()
    code = main(["evaluate", *map(str, words), "--models", str(models), "--dataset", str(dataset)], emit=emit)
    return code, emit


def train(
    tmp_path: Path, models: Path, dataset: Path, base: str, method: str, **changes: Any
) -> tuple[Path, Path, dict[str, float]]:
    """Spec, artifact and the run's own numbers on the test split."""
    spec, emit = tmp_path / "spec.json", Recorder()
    options = {"cache_activations": False} if method in ("last_k", "full") else {}
    values = tiny_spec(method, steps=2, base=base, dataset_sha256=dataset.name, **changes).as_dict()
    values["options"] |= {k: v for k, v in options.items() if k in values["options"]}
    spec.write_text(json.dumps(values))
    words = ["train", str(spec), "--models", str(models), "--dataset", str(dataset), "--device", "cpu"]
    given: Any = emit
    assert main([*words, "--workdir", str(tmp_path / "run")], emit=given) == 0, emit.events[-1]
    tests = [e["metrics"] for e in emit.named("eval") if e["split"] == "test" and e["subject"] == "adapter"]
    return spec, tmp_path / "run" / "out", tests[0]


@pytest.mark.parametrize(
    ("base", "method"),
    [
        ("tiny-bert", "lora"),
        ("tiny-bert", "head"),
        ("tiny-bert", "full"),
        ("tiny-t5", "prefix_tuning"),
        ("tiny-t5", "qlora"),
        ("tiny-llama", "last_k"),
    ],
)
def test_an_artifact_measures_what_its_run_measured(
    base: str, method: str, models: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    _, out, metrics = train(tmp_path, models, tiny_dataset_dir, base, method)
    code, emit = evaluate("--adapter", out, "--rows", "4", models=models, dataset=tiny_dataset_dir)
    assert code == 0, emit.events[-1]
    assert emit.named("started")[0] == {"event": "started", "base": base, "subject": "adapter", "n_rows": 4}
    assert emit.named("eval")[0]["metrics"] == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize(("base", "method"), [("tiny-bert", "output_layers"), ("tiny-t5", "lora")])
def test_a_run_in_short_numbers_is_measured_in_short_numbers(
    base: str, method: str, models: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    _, out, metrics = train(tmp_path, models, tiny_dataset_dir, base, method, precision="bfloat16")
    code, emit = evaluate("--adapter", out, "--rows", "4", models=models, dataset=tiny_dataset_dir)
    assert code == 0, emit.events[-1]
    assert emit.named("eval")[0]["metrics"] == pytest.approx(metrics, rel=1e-2)


def test_free_answers_of_an_encoder_decoder_are_measured(
    models: Path, tiny_generation_dataset_dir: Path, tmp_path: Path
) -> None:
    _, out, metrics = train(tmp_path, models, tiny_generation_dataset_dir, "tiny-t5", "lora")
    words = ("--adapter", out, "--rows", "4")
    code, emit = evaluate(*words, models=models, dataset=tiny_generation_dataset_dir)
    assert code == 0, emit.events[-1]
    assert emit.named("eval")[0]["metrics"] == pytest.approx(metrics, rel=1e-5)


def test_a_spec_names_the_base_and_the_longest_row(models: Path, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(tiny_spec(base="tiny-t5", max_length=8).as_dict()))
    _, short = evaluate(spec, models=models, dataset=tiny_dataset_dir)
    _, long = evaluate(spec, "--max-length", "96", models=models, dataset=tiny_dataset_dir)
    assert short.named("started")[0]["base"] == long.named("started")[0]["base"] == "tiny-t5"
    assert short.named("eval")[0]["metrics"] != long.named("eval")[0]["metrics"]
    assert short.named("eval")[0]["subject"] == "plain"


def test_labels_of_another_order_are_told_apart_by_the_artifacts_own(
    models: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    _, out, metrics = train(tmp_path, models, tiny_dataset_dir, "tiny-bert", "lora")
    turned = Path(shutil.copytree(tiny_dataset_dir, tmp_path / "turned"))
    about = json.loads((turned / "dataset.json").read_text())
    (turned / "dataset.json").write_text(json.dumps({**about, "labels": about["labels"][::-1]}))
    _, emit = evaluate("--adapter", out, "--rows", "4", models=models, dataset=turned)
    assert emit.named("eval")[0]["metrics"] == pytest.approx(metrics, rel=1e-5)


def test_a_foreign_adapter_is_measured_with_what_is_known_of_it(
    models: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    """An imported adapter has no spec of its own, but its number of virtual tokens counts."""
    _, out, metrics = train(tmp_path, models, tiny_dataset_dir, "tiny-bert", "prompt_tuning")
    manifest = json.loads((out / "manifest.json").read_text())
    spec = {"method": "prompt_tuning", "source": "imported", "options": manifest["spec"]["options"]}
    (out / "manifest.json").write_text(json.dumps({**manifest, "spec": spec}))
    _, emit = evaluate("--adapter", out, "--rows", "4", models=models, dataset=tiny_dataset_dir)
    assert emit.named("eval")[0]["metrics"] == pytest.approx(metrics, rel=1e-5)


def test_a_plain_encoder_has_nothing_to_measure(models: Path, tiny_dataset_dir: Path) -> None:
    code, emit = evaluate("--base", "tiny-bert", models=models, dataset=tiny_dataset_dir)
    assert (code, emit.events[-1]["error"]["field"]) == (64, "adapter")


def test_nothing_to_measure_is_said(models: Path, tiny_dataset_dir: Path) -> None:
    code, emit = evaluate(models=models, dataset=tiny_dataset_dir)
    assert (code, emit.events[-1]["error"]["field"]) == (64, "base")


def test_an_adapter_of_another_base_is_refused(models: Path, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    _, out, _ = train(tmp_path, models, tiny_dataset_dir, "tiny-llama", "lora")
    other = save_tiny(tmp_path / "models" / "other", "llama", seed=1).parent
    code, emit = evaluate("--adapter", out, "--base", "other", models=other, dataset=tiny_dataset_dir)
    assert (code, emit.events[-1]["error"]["code"]) == (65, "invalid_artifact")


def test_a_spec_of_another_technique_is_refused(models: Path, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    spec, out, _ = train(tmp_path, models, tiny_dataset_dir, "tiny-llama", "lora")
    spec.write_text(json.dumps(tiny_spec("ia3").as_dict()))
    code, emit = evaluate(spec, "--adapter", out, models=models, dataset=tiny_dataset_dir)
    assert (code, emit.events[-1]["error"]["field"]) == (64, "method")
