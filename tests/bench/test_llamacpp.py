"""llama.cpp beside the engine: how it is made, found and read. cmake and the program are small scripts, really run."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from bench import make_llamacpp
from bench.engine_llamacpp import VERSION, LlamaCpp, find
from ml.backbone import sha256_of

PROGRAM, SOURCES, GGUF = f"llama-batched-bench-{VERSION}", f"source-{VERSION}", "tiny-f16.gguf"
CMAKE = """#!/bin/sh
echo "$*" >> "$CALLS"
test -z "$CMAKE_FAILS" || exit 3
if [ "$1" = -S ]; then mkdir -p "$4/bin"; else echo built > "$2/bin/llama-batched-bench"; fi
"""
CONVERT = """import os, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--outfile") + 1])
out.write_text(f"{sys.argv[1]} {sys.argv[sys.argv.index('--outtype') + 1]}")
sys.exit(int(os.environ.get("CONVERT_FAILS", "0")))
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def sdist(tmp_path, monkeypatch) -> Path:
    """A source package that holds nothing but a conversion script, pinned; a cmake that notes what it is told."""
    packed = tmp_path / make_llamacpp.INSIDE
    packed.mkdir(parents=True)
    (packed / "convert_hf_to_gguf.py").write_text(CONVERT)
    (packed.parent.parent / "setup.py").write_text("raise RuntimeError('run')")
    path = tmp_path / "package.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(packed.parent.parent, packed.parent.parent.name)
    script(tmp_path / "bin" / "cmake", CMAKE)
    monkeypatch.setattr(make_llamacpp, "SHA256", sha256_of(path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for tool in ("make", "cc", "c++"):
        script(tmp_path / "bin" / tool, "#!/bin/sh\nexit 1\n")
    return path


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    return folder


@pytest.fixture
def make(tmp_path, sdist, model):
    """Runs the script; returns its exit code and the names of what it left."""

    def run() -> tuple[int, set[str]]:
        into = tmp_path / "into"
        code = make_llamacpp.main(["--into", str(into), "--model", str(model), "--sdist", str(sdist), "--jobs", "1"])
        return code, {path.name for path in into.iterdir()} - {".lock"}

    return run


def test_program_and_weights_are_made_of_the_pinned_sources(make, tmp_path, model):
    assert make() == (0, {PROGRAM, SOURCES, GGUF})
    assert (tmp_path / "into" / GGUF).read_text() == f"{model} f16"
    configure, build = (tmp_path / "calls").read_text().splitlines()
    assert "-DGGML_NATIVE=ON" in configure and "-DCMAKE_BUILD_TYPE=Release" in configure
    assert build.endswith("--target llama-batched-bench -j 1")
    assert find(tmp_path / "into", model, 1, "wall") is not None


def test_what_is_there_is_left_alone(make, tmp_path, sdist):
    make()
    calls = (tmp_path / "calls").read_text()
    sdist.unlink()
    assert make() == (0, {PROGRAM, SOURCES, GGUF})
    assert (tmp_path / "calls").read_text() == calls
    (tmp_path / "into" / GGUF).unlink()
    assert make() == (0, {PROGRAM, SOURCES, GGUF}), "only the conversion is done again"
    assert (tmp_path / "calls").read_text() == calls


def test_a_build_that_fails_leaves_the_sources_only(make, monkeypatch, capfd):
    monkeypatch.setenv("CMAKE_FAILS", "1")
    assert make() == (1, {SOURCES})
    assert "cmake could not configure llama.cpp (exit code 3)" in capfd.readouterr().err
    monkeypatch.delenv("CMAKE_FAILS")
    assert make() == (0, {PROGRAM, SOURCES, GGUF})


def test_a_conversion_that_fails_leaves_no_half_of_a_file(make, monkeypatch, capfd):
    monkeypatch.setenv("CONVERT_FAILS", "1")
    assert make() == (1, {PROGRAM, SOURCES})
    assert "could not be converted" in capfd.readouterr().err


def test_leftovers_of_a_killed_run_are_removed(make, tmp_path):
    (tmp_path / "into" / f".{PROGRAM}-x1y2" / "build").mkdir(parents=True)
    assert make() == (0, {PROGRAM, SOURCES, GGUF})


def test_another_package_than_the_pinned_one_is_not_unpacked(make, monkeypatch, capfd):
    monkeypatch.setattr(make_llamacpp, "SHA256", "0" * 64)
    assert make() == (1, set())
    assert "package.tar.gz is not the pinned file" in capfd.readouterr().err


def test_what_is_not_installed_is_named_before_anything_is_fetched(make, monkeypatch, tmp_path, capfd):
    (tmp_path / "bin" / "cmake").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert make() == (1, set())
    assert "Not on PATH: cmake. Install it and start again. On Debian: apt-get" in capfd.readouterr().err


def test_without_a_model_the_way_to_it_is_named(make, model, capfd):
    shutil.rmtree(model)
    assert make() == (1, set())
    assert "There is no model in" in capfd.readouterr().err


def test_the_comparison_says_what_is_missing_and_how_to_have_it(tmp_path, model, capsys):
    assert find(tmp_path, model, 1, "wall") is None
    said = capsys.readouterr().out
    assert f"{PROGRAM} is missing; to have it: make bench-llamacpp. Absent: vs_llamacpp_1, vs_llamacpp_16." in said
    script(tmp_path / PROGRAM, "")
    assert find(tmp_path, model, 1, "wall") is None
    assert "to have them: make bench-llamacpp" in capsys.readouterr().out


def test_weights_older_than_the_model_are_not_compared_with(tmp_path, model):
    script(tmp_path / PROGRAM, "")
    (tmp_path / GGUF).touch()
    assert find(tmp_path, model, 1, "wall") is not None
    os.utime(tmp_path / GGUF, (0, 0))
    assert find(tmp_path, model, 1, "wall") is None


def test_wall_time_is_not_compared_with_processor_time(tmp_path, model, capsys):
    script(tmp_path / PROGRAM, "")
    (tmp_path / GGUF).touch()
    assert find(tmp_path, model, 1, "cpu") is None
    assert "tells wall time only" in capsys.readouterr().out


def llamacpp(folder: Path, lines: list[str], code: int = 0) -> LlamaCpp:
    text = "#!/bin/sh\n" + f'echo "$*" > {folder}/words\n' + "".join(f"echo '{line}'\n" for line in lines)
    return LlamaCpp(script(folder / PROGRAM, text + f"echo why >&2\nexit {code}\n"), folder / GGUF, 2)


def test_its_output_is_read_by_rows(tmp_path):
    lines = ["noise", '{"pl": 1, "speed_tg": 70.5}', "", '{"pl": 16, "speed_tg": 210}']
    found = llamacpp(tmp_path, lines).speeds(40, 24, (1, 16))
    assert found == {"llamacpp_1": 70.5, "llamacpp_16": 210.0}
    words = (tmp_path / "words").read_text()
    assert "-c 1024 -npp 40 -ntg 24 -npl 1,16 -t 2 -tb 2 --output-format jsonl" in words


@pytest.mark.parametrize(("lines", "code"), [(['{"pl": 1, "speed_tg": 7}'], 0), ([], 1)])
def test_a_measurement_that_is_not_whole_ends_the_bench(tmp_path, lines, code):
    with pytest.raises(SystemExit, match=rf"exit code {code}, rows .* of \[1, 16\] measured\. why"):
        llamacpp(tmp_path, lines, code).speeds(40, 24, (1, 16))
