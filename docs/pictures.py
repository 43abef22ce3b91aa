"""`make pictures`: the README's pictures, from a recorded run through the real dashboard, so that they cannot drift.

The recordings are the one that `rankdeck replay --sample` plays, `rankdeck demo` tuned by hand on two CPU cores, and a
sweep; each picture is the dashboard at a moment of one.
"""

import asyncio
from pathlib import Path

from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.sources.journal import SAMPLE, Journal
from rankdeck.tui.sources.outputs import KEPT
from rankdeck.tui.sources.replay import ReplaySource

DOCS = Path(__file__).resolve().parent

DEMO = DOCS / "recorded-demo.jsonl"
SWEEP = DOCS / "recorded-sweep.jsonl"
END = 1e9

PICTURES = {
    # name: journal, second of the replay, size, keys to press first
    "overview": (DEMO, 60.0, (120, 40), ()),
    "overview-80x24": (DEMO, 60.0, (80, 24), ()),
    "outputs": (SAMPLE, 52.7, (120, 40), ("2",)),
    "timeline": (SAMPLE, END, (120, 40), ("3",)),
    "sweep": (SWEEP, END, (120, 46), ("4",)),
}


async def picture(name: str, journal: Path, second: float, size: tuple[int, int], keys: tuple[str, ...]) -> None:
    """Write docs/NAME.svg: what the dashboard of the live run showed at that moment."""
    source = ReplaySource(Journal(journal), position=second, playing=False)
    app = RankdeckApp(source, earlier=lambda directory: source.book.newest(KEPT))
    async with app.run_test(size=size) as pilot:
        while not (source.caught_up and len(app.followed.book) == app.followed.state.done and app.run_is_shown):
            await pilot.pause(0.05)
        await pilot.press(*keys)
        before, drawn = "", app.export_screenshot(title="rankdeck")
        while drawn != before or not any(app.query_one("KeyBar").lines):  # it is drawn anew once the knobs do something
            await pilot.pause(0.6)
            before, drawn = drawn, app.export_screenshot(title="rankdeck")
        (DOCS / f"{name}.svg").write_text(drawn, encoding="utf-8")


def main() -> None:
    for name, (journal, second, size, keys) in PICTURES.items():
        asyncio.run(picture(name, journal, second, size, keys))


if __name__ == "__main__":
    main()
