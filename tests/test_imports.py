"""What the whole package keeps to: layers, light start-up, small files and functions."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "dmlbench").rglob("*.py"))
HEAVY = ["mlflow", "numpy", "pandas", "pydantic", "sklearn", "torch"]
HELP = f"""
import sys
from dmlbench.cli import main
sys.argv = ["dmlbench", *sys.argv[1:]]
try:
    main.main()
except SystemExit as end:
    print("exit code", end.code, file=sys.stderr)
print("loaded", *(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
"""


def test_imports_run_one_way():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    done = subprocess.run([sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["exit code 0", "loaded"]
    assert "dmlbench" in done.stdout


def test_help_answers_at_once():
    script = Path(sys.executable).with_name("dmlbench")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([script, "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_the_sources_are_found():
    assert len(SOURCES) > 50


def test_files_have_at_most_500_lines():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_functions_have_at_most_40_lines():
    """Without their docstrings and decorators."""
    long = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and function_lines(node) > 40:
                long[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = function_lines(node)
    assert long == {}


def test_nothing_that_is_read_back_can_run_code():
    """No pickle, no eval; YAML and checkpoints through loaders that only know data."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            unsafe = bool({"pickle", "cPickle", "dill", "shelve", "marshal"} & set(imported))
            if isinstance(node, ast.Call):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                unsafe = {
                    "torch.load": keywords.get("weights_only") != "True",
                    "np.load": keywords.get("allow_pickle", "False") != "False",
                    "yaml.load": keywords.get("Loader") not in ("_LOADER", "_UniqueKeyLoader"),
                    "eval": True,
                    "exec": True,
                }.get(ast.unparse(node.func), False)
            if unsafe:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert found == []


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
    return node.end_lineno - node.lineno + 1 - docstring


def test_the_measure_of_a_function():
    code = 'def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    return a\n'
    assert function_lines(ast.parse(code).body[0]) == 4
