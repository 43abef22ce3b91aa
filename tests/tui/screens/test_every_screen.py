"""Every view in every state at every size, as text, so that the diff of the snapshots shows what changes on a screen.

Looks are checked too: light and colourless screens have the same words, and every word is readable on its background.
"""

from collections.abc import Callable
from typing import Any

import pytest
from rich.color import ColorType
from rich.segment import Segment
from rich.style import Style
from syrupy.assertion import SnapshotAssertion
from textual.color import Color
from textual.pilot import Pilot

from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.screens.views import VIEWS
from tests import scripted, scripted_steering, scripted_sweep
from tests.dashboards import dashboard, settled
from tests.scripted import Script
from tests.tui.screens.test_replay_screen import Replay

SIZES = ((60, 18), (80, 24), (120, 40), (200, 50))

STATES: dict[str, Callable[[], Script]] = {
    "empty": Script,
    "fetching": scripted.fetching,
    "loading": scripted.loading,
    "one_rank": lambda: scripted.running(1),
    "two_ranks": scripted.running,
    "two_gpus": lambda: scripted.running(2, gpus=2),
    "eight_gpus": lambda: scripted.running(8, gpus=8, prompts=1000),
    "sixty_four_ranks": lambda: scripted.running(64, gpus=8, prompts=8000),
    "lost_gpu": lambda: scripted.lost_gpu(4),
    "paused": scripted_steering.paused,
    "disk_full": scripted_steering.disk_full,
    "rank_lost": scripted_steering.rank_lost,
    "relaunching": lambda: scripted_steering.relaunching(2),
    "out_of_memory": scripted_steering.out_of_memory,
    "sweep": scripted_sweep.running_on_gpus,
    "failed": scripted.failed,
    "completed": scripted.completed,
}

APPS: dict[str, Callable[[], RankdeckApp]] = {
    **{name: (lambda script=script: dashboard(script())) for name, script in STATES.items()},  # type: ignore[misc]
    "replay": lambda: Replay().app,
}

READABLE = 4.5
"""WCAG 2, level AA, for text of normal size."""

UNAVAILABLE = 3.0
"""For a disabled key; WCAG requires nothing there, but it should be readable."""

UNSTEERED = ("empty", "fetching", "loading")
"""The states in which the knobs cannot be turned yet; the line of keys shows them disabled."""


def drawn(app: RankdeckApp) -> list[list[Segment]]:
    return [list(strip) for strip in app.screen._compositor.render_strips()]


def words(lines: list[list[Segment]]) -> str:
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)


async def still(pilot: Pilot[Any]) -> list[list[Segment]]:
    """The screen once it has stopped changing."""
    app = pilot.app
    assert isinstance(app, RankdeckApp)
    await settled(pilot)
    before = ""
    for _ in range(40):
        await pilot.pause(0.02)
        lines = drawn(app)
        if (now := words(lines)) == before:
            return lines
        before = now
    raise AssertionError("the screen never came to rest")


async def every_screen(app: RankdeckApp, sizes: tuple[tuple[int, int], ...] = SIZES) -> dict[str, list[list[Segment]]]:
    """The drawn screens by name: view and size."""
    found = {}
    async with app.run_test(size=sizes[0]) as pilot:
        await still(pilot)
        for width, height in sizes:
            await pilot.resize_terminal(width, height)
            for view in VIEWS:
                await pilot.press(view.key)
                found[f"{view.name} {width}x{height}"] = await still(pilot)
    return found


@pytest.mark.parametrize("state", APPS)
async def test_every_view_at_every_size_reads_as_approved(
    state: str, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    dark = await every_screen(APPS[state]())
    for name, lines in dark.items():
        width, height = map(int, name.rsplit(" ", 1)[1].split("x"))
        assert [sum(segment.cell_length for segment in line) for line in lines] == [width] * height, name
        assert words(lines) == snapshot(name=name)
    app = APPS[state]()
    app.theme = "rankdeck-light"
    light = await every_screen(app)
    monkeypatch.setenv("NO_COLOR", "1")
    bare = await every_screen(APPS[state]())
    for name, lines in dark.items():
        for look, shown in (("dark", lines), ("light", light[name])):
            bar = UNAVAILABLE if state in UNSTEERED else READABLE
            assert_readable(f"{name} {look}", shown[:-1], READABLE)
            assert_readable(f"{name} {look}", shown[-1:], bar)
        assert words(light[name]) == words(lines), name
        assert words(bare[name]) == words(lines), name
        assert_colourless(name, bare[name])


def assert_readable(name: str, lines: list[list[Segment]], least: float) -> None:
    """Assert that every word has enough contrast with its background."""
    for segment in (segment for line in lines for segment in line):
        if any(character.isalnum() for character in segment.text):
            contrast = contrast_of(segment.style)
            assert contrast is None or contrast >= least, f"{name}: {segment.text!r} has {contrast:.1f}:1"


def assert_colourless(name: str, lines: list[list[Segment]]) -> None:
    """Assert that every colour is a shade of grey."""
    for segment in (segment for line in lines for segment in line):
        style = segment.style or Style.null()
        for colour in (style.color, style.bgcolor):
            if colour is not None and colour.type != ColorType.DEFAULT:
                shades = Color.from_rich_color(colour).rgb
                assert max(shades) - min(shades) <= 1, f"{name}: {segment.text!r} has {shades}"


def contrast_of(style: Style | None) -> float | None:
    """The contrast of a style's text with its background; None if it uses the terminal's own colours."""
    if style is None or style.color is None or style.bgcolor is None:
        return None
    if ColorType.DEFAULT in (style.color.type, style.bgcolor.type):
        return None
    text, ground = (luminance(Color.from_rich_color(colour)) for colour in (style.color, style.bgcolor))
    return (max(text, ground) + 0.05) / (min(text, ground) + 0.05)


def luminance(colour: Color) -> float:
    """Relative luminance, by WCAG 2."""
    parts = (part / 255 for part in colour.rgb)
    linear = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
