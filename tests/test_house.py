"""The house: no circle of imports, no loose modules, rooms that one reads in a sitting.

import-linter holds the direction between the rooms; this holds what it has no contract for.
"""

import ast
import re
from collections import Counter
from pathlib import Path

import grimp
import pytest

from tests import ROOT

MOST_MODULES = 16

LOOSE = {
    "runner": {"__init__", "__main__", "checks", "start"},
    "tui": {"__init__"},
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every import there is: those inside functions, and those for the type checker alone."""
    return grimp.build_graph("rankdeck", cache_dir=None, exclude_type_checking_imports=False)


def circle_through(graph: grimp.ImportGraph, module: str) -> tuple[str, ...] | None:
    for imported in graph.find_modules_directly_imported_by(module):
        chain = graph.find_shortest_chain(importer=imported, imported=module)
        if chain is not None:
            return (module, *chain)
    return None


def test_no_circle_of_imports_whenever_they_happen(graph: grimp.ImportGraph) -> None:
    circles = [circle for module in sorted(graph.modules) if (circle := circle_through(graph, module))]
    assert not circles, " -> ".join(circles[0])


def test_imports_inside_functions_and_for_the_type_checker_are_seen(graph: grimp.ImportGraph) -> None:
    imports = graph.find_modules_directly_imported_by
    assert "rankdeck.tui.widgets.sweep" in imports("rankdeck.tui.screens.views"), "in a function"
    assert "rankdeck.tui.sources.client" in imports("rankdeck.tui.start.launcher"), "under TYPE_CHECKING"


def test_every_module_lives_in_a_room() -> None:
    assert {wing: {path.stem for path in (ROOT / wing).glob("*.py")} for wing in LOOSE} == LOOSE


def test_no_room_has_more_modules_than_one_keeps_in_mind() -> None:
    modules = Counter(
        path.parent for wing in LOOSE for path in (ROOT / wing).rglob("*.py") if path.name != "__init__.py"
    )
    crowded = {str(room.relative_to(ROOT)): count for room, count in modules.items() if count > MOST_MODULES}
    assert not crowded


def test_each_room_says_what_it_is() -> None:
    for room in (path for wing in LOOSE for path in [ROOT / wing, *(ROOT / wing).rglob("*")] if _is_room(path)):
        assert (room / "__init__.py").read_text().startswith('"""'), room


PURE = [
    *(f"runner/{room}" for room in ("protocol", "scheduling", "sweep", "state", "forecast", "advice")),
    *("tui/panels", "tui/plain", "tui/words"),
]


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_remembers_nothing_between_calls(room: str) -> None:
    modules = list((ROOT / room).rglob("*.py"))
    assert len(modules) > 1, "the room has another name now"
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
            assert not [one for one in decorators if "cache" in ast.unparse(one)], f"{path}:{node.lineno}"
            assert not isinstance(node, ast.Global), f"{path}:{node.lineno}"


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "README.md", "CHANGELOG.md"])
def test_documents_name_only_what_there_is(document: str) -> None:
    named = re.findall(r"`((?:runner|tui|tests|src|docs|sample_prompts)/[\w/.<>*-]*)`", (ROOT / document).read_text())
    gone = [path for path in named if "<" not in path and not list(ROOT.glob(path.rstrip("/")))]
    assert not gone


def _is_room(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.py"))
