"""How long a key waits in the Outputs view while 20,000 answers are listed, more arrive, and a filter is on.

    python -m tests.benchmarks.outputs [--answers 20000] [--seconds 5] [--per-second 100]

A key is the cursor key: from the press to the list standing on another answer, with everything between them (the
app's queues, the listing, the layout), but for the terminal. Also measured: a new filter over all answers, from its
last character to the last answer tested, and the longest time that the loop was not given back meanwhile; a key while
answers of a megabyte are listed; how long one listing needs for one answer more. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import statistics
import time

from textual import events
from textual.pilot import Pilot

from rankdeck.runner import protocol
from rankdeck.runner.protocol import OutputRecord
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.panels.outputs.listing import ANSWERS, Listing
from rankdeck.tui.sources.outputs import OutputBook
from rankdeck.tui.widgets.answer_list import AnswerList
from rankdeck.tui.widgets.query_field import QueryField
from tests import scripted
from tests.dashboards import settled, until
from tests.scripted_source import ScriptedSource

SENTENCE = "The ninth ship waited by the lighthouse until the lamp was lit again, and nobody asked why. "


def answer(index: int, repeats: int = 6) -> OutputRecord:
    return scripted.record(index, rank=index % 8, batch=index // 16, text=SENTENCE * repeats)


async def key(pilot: Pilot[object], answers: AnswerList, name: str) -> float:
    """Milliseconds from a press to the list having moved."""
    before, began = answers.cursor, time.perf_counter()
    pilot.app.post_message(events.Key(name, None))
    while answers.cursor == before:
        await asyncio.sleep(0)
    return (time.perf_counter() - began) * 1000


class Longest:
    """The longest time between two turns of the loop."""

    def __init__(self) -> None:
        self.milliseconds = 0.0
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            self.milliseconds = max(self.milliseconds, (now - before) * 1000)
            before = now

    def stop(self) -> float:
        self._task.cancel()
        return self.milliseconds


async def keys_while_answers_come(
    count: int, seconds: float, per_second: int, query: str, repeats: int = 6
) -> dict[str, float]:
    script = scripted.running(8, gpus=8, prompts=10 * count)
    source = ScriptedSource(script.events)
    app = RankdeckApp(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("2")
        app.followed.book.load(answer(index, repeats) for index in range(count))
        answers = app.screen.query_one(AnswerList)
        app.followed.dirty = True
        await until(pilot, lambda: len(answers.selection) > 0)
        longest, began = Longest(), time.perf_counter()
        app.screen.query_one(QueryField).ask(query)
        while answers.selection.query.text != query or not answers.selection.listing.complete:
            await asyncio.sleep(0)
        filtered, held = (time.perf_counter() - began) * 1000, longest.stop()
        await pilot.pause()
        waited: list[float] = []
        number, until_then = count, time.perf_counter() + seconds
        beat = asyncio.get_running_loop().time()
        while time.perf_counter() < until_then:
            beat += 10 / per_second
            for _ in range(10):
                source.say(protocol.Output(record=answer(number)))
                number += 1
            waited.append(await key(pilot, answers, "down" if len(waited) % 2 else "up"))
            await asyncio.sleep(max(0.0, beat - asyncio.get_running_loop().time()))
        ordered = sorted(waited)
        return {
            "listed": len(answers.selection),
            "arrived": number - count,
            "filter_ms": round(filtered, 1),
            "loop_held_ms": round(held, 1),
            "key_median_ms": round(statistics.median(ordered), 2),
            "key_p95_ms": round(ordered[int(len(ordered) * 0.95)], 2),
            "key_worst_ms": round(ordered[-1], 2),
        }


def one_more(count: int) -> float:
    """Microseconds that a listing of so many answers needs for one more, and to find it in both orders."""
    book = OutputBook()
    for index in range(count):
        book.add(answer(index))
    listing = Listing(book, ANSWERS.parse("ninth -rank:0"))
    while not listing.catch_up():
        pass
    began = time.perf_counter()
    for index in range(count, count + 1000):
        book.add(answer(index))
        listing.catch_up()
        listing.place(index, "arrival"), listing.place(index, "input")
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--per-second", type=int, default=100)
    arguments = parser.parse_args()
    asked = (arguments.seconds, arguments.per_second)
    result = {
        "filtered": asyncio.run(keys_while_answers_come(arguments.answers, *asked, "ninth rank:1-7 tokens:>38")),
        "hostile": asyncio.run(keys_while_answers_come(50, *asked, "asked -nosuch", repeats=11_000)),
        "one_more_us": round(one_more(arguments.answers), 1),
    }
    print(json.dumps(result))  # noqa: T201  (the product of a benchmark)


if __name__ == "__main__":
    main()
