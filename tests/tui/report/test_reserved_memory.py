"""The memory that torch has reserved, in a report: beside what was in use, for each setting of the knobs."""

import json
from pathlib import Path

from rankdeck.runner import run_directory
from tests.reports import RECORDED, Page, reported, write_recorded

GIB = 2**30


def test_each_setting_of_the_knobs_shows_the_memory_in_use_and_the_memory_reserved(tmp_path: Path) -> None:
    write_recorded(tmp_path / "run")
    lines = []
    for line in RECORDED.read_bytes().splitlines():
        event = json.loads(line)
        if event["type"] == "batch_finished":
            event["result"] |= {"peak_memory_bytes": int(4.6 * GIB), "reserved_memory_bytes": int(63.9 * GIB)}
        lines.append(json.dumps(event).encode() + b"\n")
    (tmp_path / "run" / run_directory.EVENTS_FILE).write_bytes(b"".join(lines))
    assert reported(tmp_path / "run").exit_code == 0
    heading, *settings = Page(tmp_path / "run" / "report.html").tables["What each setting of the knobs brought"]
    assert heading[-2:] == ["peak memoryGiB per rank", "reservedGiB per rank"]
    assert [row[-2:] for row in settings] == [["4.6", "63.9"]] * 2
    written = json.loads((tmp_path / "run" / "report.json").read_bytes())
    assert {one["reserved_memory_bytes"] for one in written["stretches"] if one["batches"]} == {int(63.9 * GIB)}
