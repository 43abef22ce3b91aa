"""What a hostile model, prompt, log or file name would send to a terminal, in every text that a run's files take."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import AnyEvent
from rankdeck.runner.run_directory.run_file import RunFile
from tests import reports
from tests.reports import RECORDED

FORGED = "forged line"
PAYLOAD = (
    "\x1b]52;c;aGFja2Vk\x07\x1b[2J\x9b31m\x9d0;title\x9c\x00\b\x7f"  # clipboard, screen, colour and title; C0, C1
    "\u202eevil\u202c\u2066a\u2067b\u2068c\u2069\u200e\u200f\u061c"  # bidi
    f"\u2028{FORGED}\u2029{FORGED}\r{FORGED}\x85{FORGED}\n{FORGED}"  # lines
)

UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def assert_inert(said: bytes) -> None:
    """Nothing that was said steers a terminal, and no text of a file has become a line of its own."""
    text = said.decode()
    assert (found := UNSAFE.search(text)) is None, text[max(0, found.start() - 80) : found.end() + 20]
    assert not re.search(f"^{FORGED}", text, re.MULTILINE), text


def poisoned(value: Any, kind: Any) -> Any:
    """`value` with the payload in every text that a decoder of `kind` takes."""
    tree = msgspec.to_builtins(value)
    for holder, key in list(_texts(tree)):
        before = holder[key]
        holder[key] = before + PAYLOAD
        try:
            msgspec.json.decode(msgspec.json.encode(tree), type=kind)
        except msgspec.ValidationError:
            holder[key] = before  # a word that the format knows
    return msgspec.json.decode(msgspec.json.encode(tree), type=kind)


def _texts(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Where the texts in a tree of builtins are."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, str):
            yield tree, key
        elif isinstance(value, dict | list):
            yield from _texts(value)


def hostile_events() -> list[Any]:
    """A recorded run with the payload wherever it goes, and the events that the recording lacks."""
    lines = RECORDED.read_bytes().splitlines()
    events = [msgspec.json.decode(line, type=AnyEvent) for line in lines]  # type: ignore[arg-type]
    extra = [
        protocol.LogLine(source="rank 0", text="words"),
        protocol.RankLost(rank=1, cause="words"),
        protocol.BatchFailed(rank=0, batch=1, kind="error", error="words"),
        protocol.Paused(reason="words", asked=False),
        protocol.TelemetryStarted(gpus=0, reason="words"),
    ]
    extra = [msgspec.structs.replace(event, at=events[-2].at) for event in extra]
    return [poisoned(event, AnyEvent) for event in (*events[:-1], *extra, events[-1])]


def write_hostile(directory: Path) -> RunFile:
    """A run directory whose every file, and whose own name, is hostile; returned as its run.json has it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    record = poisoned(reports.record(0, error="words", finish_reason="error"), reports.OutputRecord)
    reports.write_recorded(directory, cause="words", status="failed", environment=reports.environment())
    run = poisoned(run_directory.read_run_file(directory), RunFile)
    run_directory.write_run_file(directory, run)
    events = b"".join(msgspec.json.encode(event) + b"\n" for event in hostile_events())
    (directory / run_directory.EVENTS_FILE).write_bytes(events)
    (directory / run_directory.OUTPUTS_FILE).write_bytes(msgspec.json.encode(record) + b"\n")
    (directory / run_directory.PROMPTS_FILE).write_bytes(msgspec.json.encode({"prompt": PAYLOAD}) + b"\n")
    (directory / run_directory.LOG_FILE).write_bytes(PAYLOAD.encode() + b"\xff\n")
    return run


def file_name() -> str:
    """The payload as a file name can have it, and a byte that is not UTF-8."""
    return PAYLOAD.replace("\x00", "")[:90] + os.fsdecode(b"\xff")
