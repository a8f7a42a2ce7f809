"""Rules of the house that no linter holds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "orvalho").rglob("*.py"))
PURE = (
    *("peers/noise.py", "peers/session.py", "peers/pairing.py", "peers/routing.py", "retry.py"),
    *("peers/records.py", "peers/gossip.py", "peers/sights.py", "peers/beacon.py"),
    *("peers/pake.py", "peers/codes.py", "peers/succession.py", "peers/once.py"),
)


def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def name(module: Path) -> str:
    return str(module.relative_to(ROOT / "orvalho"))


def functions(module: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_a_file_says_what_it_owns_and_stays_small(module: Path) -> None:
    text = module.read_text()
    if module.name == "__init__.py" and module.parent != ROOT / "orvalho":
        assert text == "", "a room's __init__ is empty"
        return
    assert ast.get_docstring(tree(module)), "the first line of a module says what it owns"
    assert len(text.splitlines()) <= 600, "past 600 lines a file is split by noun"


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_functions_stay_small(module: Path) -> None:
    long = [f"{f.name}: {body_lines(f)}" for f in functions(module) if body_lines(f) > 60]
    assert not long


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_names_say_what_they_hold(module: Path) -> None:
    assert module.stem not in ("utils", "helpers", "common", "misc")
    classes = [n.name for n in ast.walk(tree(module)) if isinstance(n, ast.ClassDef)]
    assert not [c for c in classes if re.search(r"(Manager|Helper|Util)s?$", c)]


@pytest.mark.parametrize("path", PURE)
def test_a_pure_core_waits_for_nothing(path: str) -> None:
    imported = set()
    for node in ast.walk(tree(ROOT / "orvalho" / path)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert not imported & {"anyio", "asyncio", "socket", "time", "random", "secrets", "os"}


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_the_environment_is_read_in_few_places(module: Path) -> None:
    allowed = {
        "daemon/main.py",
        "daemon/config.py",
        "daemon/home.py",
        "control/client.py",
        "control/start.py",
        "cli/main.py",
        "cli/output.py",
        "cli/session.py",
        "cli/repl.py",
        "runtime/workers/walls.py",
    }
    if name(module) not in allowed:
        assert "os.environ" not in module.read_text()


def test_no_file_names_a_registry_or_this_machine() -> None:
    for file in ("requirements.txt", "pyproject.toml", "Makefile", ".ci/run"):
        text = (ROOT / file).read_text()
        assert "://" not in text, file
        assert str(ROOT) not in text, file


def test_every_dependency_is_explained() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    block = pyproject.split("dependencies = [", 1)[1].split("]", 1)[0]
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    for package in re.findall(r'"([A-Za-z0-9_-]+)', block):
        assert package in architecture, f"ARCHITECTURE.md does not say why {package} is there"


def test_nothing_unfinished_is_shipped() -> None:
    unfinished = re.compile(r"\b(TODO|FIXME|XXX)\b|NotImplementedError")
    assert not [name(module) for module in MODULES if unfinished.search(module.read_text())]


def test_every_command_that_a_hint_names_exists() -> None:
    listed = (ROOT / "docs/cli.md").read_text()
    named = {
        found[1].strip()
        for module in MODULES
        for found in re.finditer(r'"[^"\n]*?\borvalho ((?:[a-z]+ ?){1,2})', module.read_text())
    }
    named = {words for words in named if not words.startswith("complete")}  # hidden
    nouns = (
        "peer",
        "node",
        "key",
        "ctx",
        "script",
        "group",
        "policy",
        "worker",
        "config",
        "daemon",
    )
    for words in named:
        command = " ".join(words.split()[:2] if words.split()[0] in nouns else words.split()[:1])
        assert f"orvalho {command}" in listed, f"a hint names `orvalho {words}`"
