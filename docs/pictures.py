"""`make pictures`: the README's pictures, from a recorded run through the real dashboard, so that they cannot drift.

The recording is the one that `rankdeck replay --sample` plays; each picture is the dashboard at a moment of it.
"""

import asyncio
from pathlib import Path

from tui.app import RankdeckApp
from tui.journal import SAMPLE, Journal
from tui.outputs import KEPT
from tui.replay import ReplaySource

DOCS = Path(__file__).resolve().parent

PICTURES = {
    # name: second of the replay, size, keys to press first
    "overview": (46.5, (120, 40), ()),
    "overview-80x24": (46.5, (80, 24), ()),
    "outputs": (52.7, (120, 40), ("2",)),
}


async def picture(name: str, second: float, size: tuple[int, int], keys: tuple[str, ...]) -> None:
    """Write docs/NAME.svg: what the dashboard of the live run showed at that moment."""
    source = ReplaySource(Journal(SAMPLE), position=second, playing=False)
    app = RankdeckApp(source, earlier=lambda directory: source.book.newest(KEPT))
    async with app.run_test(size=size) as pilot:
        while not (source.caught_up and len(app.book) == app.run_state.done and app.run_is_shown):
            await pilot.pause(0.05)
        await pilot.press(*keys)
        before, drawn = "", app.export_screenshot(title="rankdeck")
        while drawn != before or not app.query("FooterKey"):  # the footer is made anew once the knobs do something
            await pilot.pause(0.6)
            before, drawn = drawn, app.export_screenshot(title="rankdeck")
        (DOCS / f"{name}.svg").write_text(drawn, encoding="utf-8")


def main() -> None:
    for name, (second, size, keys) in PICTURES.items():
        asyncio.run(picture(name, second, size, keys))


if __name__ == "__main__":
    main()
