"""The rules of the house that no linter knows: budgets, what is never imported or called, what is loaded when."""

import ast
import functools
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

import proxtune
from proxtune.config import Section

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("proxtune", "reference", "tools") for path in (ROOT / folder).rglob("*.py"))
PACKAGE = [path for path in SOURCES if path.is_relative_to(ROOT / "proxtune")]
ONE_PPO_STEP = ("algorithms/ppo.py", "objectives/ppo.py", "rollouts/collect.py", "models/score.py")
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
HEAVY = {"torch", "transformers", "peft"}
OBJECT_COLLECTIVES = {"all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def show(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, FUNCTIONS))


def length(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def nesting(node: ast.AST) -> int:
    """How deep blocks stand in blocks; `elif` is no deeper than its `if`, and an inner function starts anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            continue
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("code", "depth"),
    [
        ("x = 1", 0),
        ("if a:\n  pass\nelif b:\n  pass\nelif c:\n  pass", 1),
        ("if a:\n  pass\nelse:\n  if b:\n    pass\n  x = 1", 2),
        ("for a in b:\n  with c:\n    try:\n      pass\n    except E:\n      if d:\n        pass", 4),
        ("for a in b:\n  def f():\n    if c:\n      pass", 1),
    ],
)
def test_nesting_is_counted_in_blocks(code: str, depth: int) -> None:
    assert nesting(ast.parse(code)) == depth


def test_a_file_has_at_most_400_lines() -> None:
    assert {show(path): lines(path) for path in SOURCES if lines(path) > 400} == {}


def over(measure: Callable[[Function], int], most: int) -> list[str]:
    """The functions of all files of which a measure is larger."""
    found = ((path, node) for path in SOURCES for node in functions(path))
    return [f"{show(path)}: {node.name}: {measure(node)}" for path, node in found if measure(node) > most]


def test_a_function_has_at_most_60_lines() -> None:
    assert over(length, 60) == []


def test_blocks_nest_at_most_3_deep() -> None:
    assert over(nesting, 3) == []


def test_the_step_of_ppo_fits_one_screen() -> None:
    classes = [node for node in tree(ROOT / "proxtune/algorithms/ppo.py").body if isinstance(node, ast.ClassDef)]
    steps = [node for found in classes if found.name == "PPO" for node in found.body if isinstance(node, FUNCTIONS)]
    assert [length(step) <= 40 for step in steps if step.name == "step"] == [True]


def test_one_step_of_ppo_is_read_in_four_files_of_900_lines_together() -> None:
    assert sum(lines(ROOT / "proxtune" / name) for name in ONE_PPO_STEP) <= 900


def test_the_reference_is_one_short_file_that_needs_torch_alone() -> None:
    path = ROOT / "reference/ppo.py"
    assert lines(path) <= 300
    assert imported(path) - set(sys.stdlib_module_names) == {"torch"}


def offending(found: Callable[[Path], set[str]], forbidden: set[str]) -> dict[str, set[str]]:
    """What is forbidden and found in a module all the same, by its file."""
    return {show(path): found(path) & forbidden for path in PACKAGE if found(path) & forbidden}


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def called(path: Path) -> set[str]:
    return {ast.unparse(call.func) for call in calls(path)}


def keywords(path: Path) -> set[str]:
    return {ast.unparse(keyword) for call in calls(path) for keyword in call.keywords}


def attributes(path: Path) -> set[str]:
    return {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize(
    ("found", "forbidden"),
    [
        (imported, {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}),
        (called, {"eval", "exec", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"}),
        (keywords, {"trust_remote_code=True", "allow_pickle=True", "weights_only=False"}),
    ],
)
def test_se1_nothing_unpickles_or_runs_code_from_a_file(found: Callable[[Path], set[str]], forbidden: set[str]) -> None:
    assert offending(found, forbidden) == {}


def test_di7_no_collective_sends_pickled_objects() -> None:
    assert offending(attributes, OBJECT_COLLECTIVES) == {}


def test_importing_the_package_loads_no_torch() -> None:
    assert in_fresh_python(f"import sys, proxtune; print({HEAVY} & set(sys.modules))") == "set()\n"


def test_asking_for_help_loads_no_torch() -> None:
    shown = in_fresh_python(
        f"""
import atexit, sys
atexit.register(lambda: print("loaded:", {HEAVY} & set(sys.modules)))
from proxtune.cli import main
sys.argv = ["proxtune", "--help"]
main()
"""
    )
    assert shown.splitlines()[-1] == "loaded: set()"


@pytest.mark.parametrize("name", ["errors", "config", "runs", "charts", "feedback"])
def test_what_people_and_run_folders_need_loads_no_torch(name: str) -> None:
    if importlib.util.find_spec(f"proxtune.{name}") is None:
        pytest.skip(f"proxtune.{name} is not there yet")
    assert in_fresh_python(f"import sys, proxtune.{name}; print({HEAVY} & set(sys.modules))") == "set()\n"


def subclasses(cls: type[Section]) -> Iterator[type[Section]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_option_of_every_schema_says_what_it_is() -> None:
    for module in pkgutil.walk_packages(proxtune.__path__, "proxtune."):
        importlib.import_module(module.name)
    schemas = [schema for schema in subclasses(Section) if schema.__module__.startswith("proxtune.")]
    assert len(schemas) > 5
    silent = [
        f"{schema.__module__}.{schema.__name__}.{name}"
        for schema in schemas
        for name, field in schema.model_fields.items()
        if not field.description
    ]
    assert silent == []
