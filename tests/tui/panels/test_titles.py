"""Titles in borders: names from outside are never read as markup."""

import ast
from pathlib import Path

from msgspec.structs import replace
from textual.app import App, ComposeResult
from textual.widgets import Input

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.widgets.query_field import QueryField
from tests import ROOT, scripted
from tests.dashboards import ScriptedLauncher, settled, until, whole_screen
from tests.scripted_source import ScriptedSource

NAME, MODEL = "[red]x[/]", "org/[red]m[red]"
TITLES = ("border_title", "border_subtitle")


def test_a_title_is_a_literal_or_Content() -> None:
    """A str is parsed as markup, so only a literal is safe."""
    found = 0
    for path in (ROOT / "tui").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Attribute) and target.attr in TITLES for target in targets):
                assert isinstance(node, ast.Assign)
                assert _harmless(node.value), f"{path}:{node.lineno}: {ast.unparse(node)}"
                found += 1
    assert found > 10, "titles are set in another way now"


def _harmless(value: ast.expr) -> bool:
    if isinstance(value, ast.Constant):
        return value.value is None or "[" not in str(value.value)
    if isinstance(value, ast.IfExp):
        return _harmless(value.body) and _harmless(value.orelse)
    return ast.unparse(value).startswith(("Content(", "Content.styled(", "self.app.hint("))


async def test_a_panels_title_is_data() -> None:
    class One(App[None]):
        CSS = "Panel { border: round white; height: 5; }"

        def compose(self) -> ComposeResult:
            yield Panel("first [bold]title[/]")

    app = One()
    async with app.run_test(size=(60, 8)) as pilot:
        await pilot.pause()
        panel = app.query_one(Panel)
        assert "first [bold]title[/]" in _screen(app)
        panel.draw(lambda width, height: [], f"a model called {NAME} [@click=app.quit]")
        await pilot.pause()
        assert f"a model called {NAME} [@click=app.quit]" in _screen(app)


def _screen(app: App[None]) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


async def test_a_hostile_run_and_query_are_shown_literally_in_every_view() -> None:
    script = scripted.running()
    hostile = [
        replace(event, name=NAME, config=replace(event.config, model=MODEL)) if hasattr(event, "config") else event
        for event in script.events
    ]
    app = RankdeckApp(ScriptedSource(hostile))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for key in "12345":
            await pilot.press(key)
            await pilot.pause()
            assert "[red]m[red]" in whole_screen(app).splitlines()[0]
        await pilot.press("2")
        app.screen.query_one("#outputs QueryField", QueryField).ask(NAME)
        await until(pilot, lambda: f"0 shown: {NAME}" in whole_screen(app))
        await pilot.press("E")
        await pilot.pause()
        assert f"Write the answers that match {NAME}" in whole_screen(app)
        assert app.screen.query_one(Input).value == "red-x-filtered.jsonl"


async def test_a_hostile_model_of_a_recent_run_is_shown_literally() -> None:
    run = RecentRun(Path("/r"), NAME, "completed", 0.0, "1/1", "3 tok/s", RunConfig(prompts="p", model=MODEL))
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=[run]))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: NAME in whole_screen(app))
        await pilot.press("escape")
        await until(pilot, lambda: "─ [red]m[red], 1 rank ─╯" in whole_screen(app))
