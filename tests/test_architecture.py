"""The dependency rules of docs/architecture.md, by reading the imports, and by asking a fresh web process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "peft", "chromadb", "celery", "safetensors", "accelerate", "scipy", "numpy"}
MAX_LINES = 300


def modules(*packages: str) -> dict[str, Path]:
    """Module names and files of our packages, migrations left out."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" in path.parts:
                continue
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


ALL = modules("ml", "jobs", "webapp")


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(tree: ast.AST, *, at_import_only: bool) -> Iterator[ast.stmt]:
    """Import statements; `at_import_only` leaves out those in functions, which run later or never."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            if is_type_checking(node):  # type: ignore[arg-type]
                continue
            if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            yield from statements(node, at_import_only=at_import_only)


def imports(name: str, *, at_import_only: bool = False) -> set[str]:
    """Everything `name` imports: modules, and `module.attribute` for each name imported from one."""
    package = name if ALL[name].name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in statements(ast.parse(ALL[name].read_text(encoding="utf-8")), at_import_only=at_import_only):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def offences(names: dict[str, Path], forbidden: set[str]) -> list[str]:
    return sorted(
        f"{name} imports {module}"
        for name in names
        for module in imports(name)
        if any(is_within(module, package) for package in forbidden)
    )


def test_ml_knows_neither_django_nor_celery_nor_redis_nor_the_other_packages() -> None:
    assert offences(modules("ml"), {"django", "celery", "redis", "kombu", "webapp", "jobs"}) == []


def test_webapp_imports_of_jobs_only_queue_and_stream() -> None:
    """The supervisor and the processes that it starts are reached from management commands, which are no web code."""
    allowed = {"jobs.queue", "jobs.stream"}
    web = {name: path for name, path in modules("webapp").items() if not is_within(name, "webapp.management")}
    found = [
        f"{name} imports {module}"
        for name in web
        for module in imports(name)
        if is_within(module, "jobs") and module != "jobs" and not any(is_within(module, one) for one in allowed)
    ]
    assert found == []


def test_webapp_imports_of_ml_only_specs_and_errors() -> None:
    allowed = {"ml.specs", "ml.errors"}
    found = [
        f"{name} imports {module}"
        for name in modules("webapp")
        for module in imports(name)
        if is_within(module, "ml") and module != "ml" and not any(is_within(module, one) for one in allowed)
    ]
    assert found == []


def test_webapp_imports_nothing_heavy_itself() -> None:
    assert offences(modules("webapp"), HEAVY) == []


def test_only_jobs_sees_both_sides() -> None:
    def sides(name: str) -> set[str]:
        return {side for side in ("ml", "webapp") for module in imports(name) if is_within(module, side)}

    light = {"ml.specs", "ml.errors"}
    both = [
        name
        for name in modules("ml", "webapp")
        if sides(name) >= {"ml", "webapp"} and any(is_within(m, "ml") and m != "ml" and not any(
            is_within(m, one) for one in light) for m in imports(name))
    ]  # fmt: skip
    assert both == []


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("ml.engine", {"ml.methods", "ml.train", "ml.retrieval", "ml.evaluate"}),
        ("ml.retrieval", {"ml.engine", "ml.train", "ml.methods"}),
        ("ml.evaluate", {"ml.engine"}),
    ],
)
def test_the_parts_of_ml_keep_apart(package: str, forbidden: set[str]) -> None:
    names = {name: path for name, path in ALL.items() if is_within(name, package)}
    assert offences(names, forbidden) == []


def test_the_methods_never_import_one_another() -> None:
    shared = {"base", "registry", "common"}
    names = {name: path for name, path in ALL.items() if is_within(name, "ml.methods") and name.count(".") == 2}
    techniques = {
        name for name in names if name.rsplit(".", 1)[1] not in shared and not name.rsplit(".")[-1].startswith("_")
    }
    found = [
        f"{name} imports {other}"
        for name in techniques
        for other in techniques - {name}
        if any(is_within(module, other) for module in imports(name))
    ]
    assert found == []


def test_nothing_in_webapp_or_its_templates_names_a_technique_of_training() -> None:
    """A new technique is one file in ml/methods and one line in METHODS; forms and tables iterate that table."""
    from ml.specs import METHODS

    code = [
        f"{path.relative_to(ROOT)} names {node.value}"
        for path in modules("webapp").values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in METHODS
    ]
    templates = [
        f"{path.relative_to(ROOT)} names {method}"
        for path in sorted((ROOT / "templates").rglob("*.html"))
        for method in METHODS
        if f'"{method}"' in path.read_text(encoding="utf-8") or f"'{method}'" in path.read_text(encoding="utf-8")
    ]
    assert code + templates == []


def test_a_web_process_loads_nothing_heavy() -> None:
    """Asked of a fresh interpreter, since an import may hide behind any number of others."""
    script = f"import json, sys, webapp.asgi; print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_urls_of_a_web_process_load_nothing_heavy() -> None:
    """Views are imported with the first request, not with webapp.asgi."""
    script = (
        "import json, sys, webapp.asgi; from django.urls import get_resolver; get_resolver().url_patterns; "
        f"print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_bridge_that_webapp_imports_is_light() -> None:
    script = f"import json, sys, jobs.stream; print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_a_supervisor_of_runs_never_loads_torch() -> None:
    """CUDA that was touched in the parent breaks every forked child."""
    script = "import json, sys, jobs.celery, jobs.supervise; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) is False


@pytest.mark.parametrize("package", ["ml", "jobs", "webapp"])
def test_files_stay_short_enough_to_read(package: str) -> None:
    too_long = {
        str(path.relative_to(ROOT)): n_lines
        for path in modules(package).values()
        if (n_lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert too_long == {}


def test_nothing_reads_or_writes_pickles() -> None:
    """Safetensors and JSON only: a pickle is code."""
    assert offences(ALL, {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}) == []


def test_remote_code_is_never_trusted() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in ALL.values()
        if "trust_remote_code=True" in path.read_text(encoding="utf-8").replace(" ", "")
    ]
    assert found == []
