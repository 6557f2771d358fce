"""Tests about the code itself: the rules that hold the shape of the house."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "phalanx"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if "versions" not in path.parts)
IDS = [str(path.relative_to(SOURCE)) for path in MODULES]
BANNED_NAMES = re.compile(r"(^|_)(utils?|helpers?|managers?|base|misc)($|_)")
MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 450


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(module: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_names_say_what_things_are(path: Path) -> None:
    """No util, helper, manager or base: such names accept anything."""
    defined = [path.stem, *(f.name for f in functions(tree(path)))]
    defined += [
        re.sub(r"(?<!^)(?=[A-Z])", "_", n.name).lower() for n in ast.walk(tree(path)) if isinstance(n, ast.ClassDef)
    ]
    assert [name for name in defined if BANNED_NAMES.search(name)] == []


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_functions_and_modules_stay_small(path: Path) -> None:
    """What grows past this is two things."""
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(tree(path)) if f.end_lineno}
    assert {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if "settings" not in p.parts], ids=[i for i in IDS if "settings" not in i]
)
def test_only_settings_reads_the_environment(path: Path) -> None:
    """One reader, so that every variable is documented and checked."""
    assert not re.search(r"os\.environ|os\.getenv|\bgetenv\(", path.read_text())


@pytest.mark.parametrize("path", sorted((SOURCE / "services").glob("*.py")), ids=lambda path: path.name)
def test_service_methods_take_their_ticket_first(path: Path) -> None:
    """Nobody can compute without having been admitted."""
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Service") and node.name != "HealthService":
            for method in node.body:
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_"):
                    assert method.args.args[1].arg == "ticket", f"{node.name}.{method.name}"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.name != "gate.py"], ids=[i for i in IDS if "gate.py" not in i]
)
def test_only_the_gate_makes_tickets(path: Path) -> None:
    """A ticket is proof of admission."""
    calls = [n.func.id for n in ast.walk(tree(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert "Ticket" not in calls


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_nothing_names_a_machine(path: Path) -> None:
    """No absolute path of a machine."""
    assert not re.search(r"(?<![\w.])/(home|root|work|Users)/", path.read_text())
