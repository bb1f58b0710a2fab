"""Makes what `bench/engine.py` compares with: llama.cpp's own program, and the model's weights in llama.cpp's format.

    make bench-llamacpp [ARGS="--sdist FILE --jobs 1"]

Into the folder come the sources (out of the pinned source package of llama-cpp-python, which is neither built nor
installed), `llama-batched-bench` built of them for this processor, and the model as float16 GGUF, converted by
llama.cpp's own script. Each is there whole or not at all, and is left alone when it is there; a failure says what was
missing and what to do. Needs cmake, a compiler and 700 MB; takes minutes of every core. Nothing else needs any of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.engine_llamacpp import PROGRAM, VERSION, gguf_in, is_current, program_in
from ml.errors import ColdframeError, ModelError, UnavailableError
from ml.files import locked
from ml.packages import check_pinned, fetch_package

PACKAGE = "llama-cpp-python"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
"""Where the package has llama.cpp."""
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release", "BUILD_SHARED_LIBS": "OFF", "GGML_NATIVE": "ON", "GGML_CCACHE": "OFF",
    "LLAMA_BUILD_SERVER": "OFF", "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_APP": "OFF",
    "LLAMA_OPENSSL": "OFF", "LLAMA_USE_PREBUILT_UI": "OFF",
}  # fmt: skip
"""Without GPU, which no option asks for; one file that needs nothing beside it; nothing is fetched."""


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """A path in a folder of its own that becomes `final` when the block ends well, and vanishes when it does not."""
    with tempfile.TemporaryDirectory(prefix=f".{final.name}-", dir=final.parent) as name:
        made = Path(name) / final.name
        yield made
        made.replace(final)


def run(command: Sequence[str | Path], failure: str, hint: str, environment: Mapping[str, str] | None = None) -> None:
    """What the command says is shown as it comes."""
    done = subprocess.run(command, check=False, env={**os.environ, **(environment or {})})
    if done.returncode:
        raise UnavailableError(f"{failure} (exit code {done.returncode}); what it said stands above.", hint=hint)


def make_sources(final: Path, sdist: Path | None) -> None:
    with staged(final) as made:
        archive = sdist or fetch_package(PACKAGE, VERSION, made.parent, is_source=True)
        check_pinned(archive, SHA256)
        with tarfile.open(archive) as packed:
            inside = [member for member in packed if member.name.startswith(f"{INSIDE}/")]
            packed.extractall(made.parent, inside, filter="data")
        (made.parent / INSIDE).rename(made)


def make_program(final: Path, sources: Path, jobs: int) -> None:
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    with staged(final) as made:
        build = made.parent / "build"
        run(["cmake", "-S", sources, "-B", build, *options], "cmake could not configure llama.cpp",
            "Install what it asks for: it wants cmake 3.14 and a compiler of C++17.")  # fmt: skip
        run(["cmake", "--build", build, "--target", PROGRAM, "-j", str(jobs)], "llama.cpp could not be built",
            "Where memory ran out, build with fewer jobs: ARGS='--jobs 1'.")  # fmt: skip
        (build / "bin" / PROGRAM).rename(made)


def make_gguf(final: Path, sources: Path, model: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with staged(final) as made:
        run([sys.executable, sources / "convert_hf_to_gguf.py", model, "--outtype", "f16", "--outfile", made],
            f"{model} could not be converted", "llama.cpp must know the model's kind; make setup mends .venv.",
            offline)  # fmt: skip


def check_tools() -> None:
    tools = {
        "cmake": ["cmake"], "make or ninja": ["make", "gmake", "ninja"],
        "a C compiler": [os.environ.get("CC", "cc"), "gcc", "clang"],
        "a C++ compiler": [os.environ.get("CXX", "c++"), "g++", "clang++"],
    }  # fmt: skip
    missing = [name for name, programs in tools.items() if not any(map(shutil.which, programs))]
    if missing:
        raise UnavailableError(
            f"Not on PATH: {', '.join(missing)}.",
            hint="Install it and start again. On Debian: apt-get install cmake make gcc g++",
        )


def make(folder: Path, model: Path, sdist: Path | None, jobs: int) -> None:
    """Whatever is missing of program and weights, and the sources for it."""
    for leftover in folder.glob(".*-*"):
        shutil.rmtree(leftover)
    sources, program, gguf = folder / f"source-{VERSION}", program_in(folder), gguf_in(folder, model)
    if program.is_file() and is_current(gguf, model):
        return
    if not (model / "config.json").is_file():
        raise ModelError(f"There is no model in {model}.", hint="make models fetches the starter models.")
    if not program.is_file():
        check_tools()
    if not sources.is_dir():
        print(f"{sources}: {'out of ' + str(sdist) if sdist else 'fetching'} {PACKAGE} {VERSION}", flush=True)
        make_sources(sources, sdist)
    if not program.is_file():
        print(f"{program}: building, which takes minutes", flush=True)
        make_program(program, sources, jobs)
    if not is_current(gguf, model):
        print(f"{gguf}: converting {model}", flush=True)
        make_gguf(gguf, sources, model)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path("var/bench/llamacpp"))
    parser.add_argument("--model", type=Path, default=Path("var/models/smollm2-135m-instruct"))
    parser.add_argument("--sdist", type=Path, help=f"the source package of {PACKAGE} {VERSION}; fetched when not given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    args = arguments(words)
    try:
        args.into.mkdir(parents=True, exist_ok=True)
        with locked(args.into / ".lock"):
            make(args.into, args.model, args.sdist, args.jobs)
    except (ColdframeError, OSError) as error:
        print(f"{error} {getattr(error, 'hint', '')}".strip(), file=sys.stderr)
        return 1
    print(f"llama.cpp is in {args.into}; make bench-engine compares with it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
