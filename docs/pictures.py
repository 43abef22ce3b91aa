"""`make pictures`: the README's pictures, from a recorded run through the real dashboard, so that they cannot drift.

The recording (docs/recorded-run.jsonl) is the journal of a real run; each picture is the dashboard at a moment of it.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from runner.protocol import AnyEvent, Command
from runner.state import ToViewer
from tui.app import RankdeckApp

DOCS = Path(__file__).resolve().parent

PICTURES = {
    # name: share of the recording's time, size, keys to press first
    "overview": (0.80, (120, 40), ()),
    "overview-80x24": (0.80, (80, 24), ()),
    "outputs": (0.90, (120, 40), ("2",)),
}


class Recording:
    """The first part of a journal, as a source that then says no more."""

    directory = DOCS

    def __init__(self, share: float) -> None:
        lines = (DOCS / "recorded-run.jsonl").read_bytes().splitlines()
        decoder = msgspec.json.Decoder(AnyEvent)
        events = [decoder.decode(line) for line in lines]
        until = events[0].at + share * (events[-1].at - events[0].at)
        self._events = [event for event in events if event.at <= until]

    async def events(self) -> AsyncIterator[ToViewer]:
        for event in self._events:
            yield event
        await asyncio.Event().wait()

    async def send(self, command: Command) -> None:
        pass


async def picture(name: str, share: float, size: tuple[int, int], keys: tuple[str, ...]) -> None:
    """Write docs/NAME.svg."""
    app = RankdeckApp(Recording(share))
    async with app.run_test(size=size) as pilot:
        while not app.run_is_shown:
            await pilot.pause(0.05)
        await pilot.press(*keys)
        await pilot.pause(0.6)
        (DOCS / f"{name}.svg").write_text(app.export_screenshot(title="rankdeck"), encoding="utf-8")


def main() -> None:
    for name, (share, size, keys) in PICTURES.items():
        asyncio.run(picture(name, share, size, keys))


if __name__ == "__main__":
    main()
