"""A run's journal and run.json as a recording to be shipped: small, and without the names of a machine or a person.

A recording is a run directory: `rankdeck replay FOLDER` and `rankdeck report FOLDER` take it. `ship` puts the journals
where `rankdeck replay --sample` and the pictures look for them.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import AnyEvent, BatchFinished, Output, RankReady, Tick, encode_line
from rankdeck.runner.protocol.framing import encode
from tests import ROOT

MOST_BYTES = 300_000
HOME = "/home/ada"
HOST = "gpu-box"

KEPT_CHARACTERS = (2000, 160, 80, 40, 0)
"""How much of a prompt and of an answer is kept: the first of these with which the journal is small enough."""


def record(directory: Path, name: str, models: Path, target: Path) -> int:
    """Write the recording of the run in `directory` into the folder `target`; the journal's bytes.

    `name` is what the recorded run is called, `models` the folder that its model lies in.
    """
    events = events_of(directory)
    run = run_directory.read_run_file(directory)
    neutral = replaced(neutral_names(events, directory, name, models))
    lines = small_enough(events, neutral)
    target.mkdir(parents=True, exist_ok=True)
    (target / run_directory.EVENTS_FILE).write_bytes(b"".join(lines))
    if run.environment is not None:
        run = msgspec.structs.replace(run, environment=msgspec.structs.replace(run.environment, host=HOST))
    run = msgspec.structs.replace(run, name=name, supervisor_pid=None)
    (target / run_directory.RUN_FILE).write_bytes(msgspec.json.format(neutral(encode(run)), indent=2) + b"\n")
    return sum(map(len, lines))


def events_of(directory: Path) -> list[AnyEvent]:
    """The journal's events as far as it is written; half a line at its end is left out."""
    events = []
    with contextlib.suppress(run_directory.RunFileError):
        for event in run_directory.read_events(directory):
            events.append(event)  # noqa: PERF402  (what came before a damaged line is kept)
    return events


def small_enough(events: Iterable[AnyEvent], neutral: Callable[[bytes], bytes]) -> list[bytes]:
    """The journal's lines, as complete as MOST_BYTES allow: texts are cut first, then the times of single steps."""
    events = list(events)
    lines: list[bytes] = []
    for characters in KEPT_CHARACTERS:
        for keep_steps in (True, False):
            lines = [neutral(encode_line(cut(event, characters, keep_steps=keep_steps))) for event in events]
            if sum(map(len, lines)) <= MOST_BYTES:
                return lines
    return lines


def cut(event: AnyEvent, characters: int, *, keep_steps: bool) -> AnyEvent:
    """The event with at most so many characters of a prompt and an answer. Nothing that is counted changes."""
    if isinstance(event, Output):
        kept = {"prompt": event.record.prompt[:characters], "text": event.record.text[:characters]}
        return msgspec.structs.replace(event, record=msgspec.structs.replace(event.record, **kept))
    if isinstance(event, BatchFinished) and not keep_steps:
        return msgspec.structs.replace(event, result=msgspec.structs.replace(event.result, step_seconds=None))
    return event


def neutral_names(events: Iterable[AnyEvent], directory: Path, name: str, models: Path) -> dict[str, str]:
    """Texts in a journal that give away whose machine it was, with their replacements; the longest first."""
    names = {
        str(directory): f"{HOME}/.local/state/rankdeck/runs/{name}",
        str(models): f"{HOME}/models",
        str(directory.parent): f"{HOME}/rankdeck",
        str(ROOT): f"{HOME}/rankdeck",
        sys.prefix: f"{HOME}/rankdeck/.venv",
        tempfile.gettempdir(): f"{HOME}/tmp",
        str(Path.home()): HOME,
        directory.name: name,
        os.uname().nodename: HOST,
    }
    # A socket's folder may be anywhere: only the last part of its path is kept.
    names |= {str(run_directory.socket_path(directory).parent): f"{HOME}/.cache/rankdeck"}
    uuids = sorted({uuid for event in events for uuid in _uuids(event)})
    names |= {uuid: f"{number:08d}-0000-0000-0000-000000000000" for number, uuid in enumerate(uuids)}
    return {old: names[old] for old in sorted(names, key=len, reverse=True) if len(old) > 3}


def _uuids(event: AnyEvent) -> list[str]:
    if isinstance(event, RankReady):
        return [uuid for uuid in (event.device_uuid, *event.device_uuids) if uuid]
    if isinstance(event, Tick):
        return [device.uuid.removeprefix("GPU-").removeprefix("MIG-") for device in event.devices or []]
    return []


def replaced(names: Mapping[str, str]) -> Callable[[bytes], bytes]:
    """Puts other names for those in `names`, in their order."""

    def replace(line: bytes) -> bytes:
        for old, new in names.items():
            if old:
                line = line.replace(old.encode(), new.encode())
        return line

    return replace


def ship(results: Path) -> list[Path]:
    """Replace the recordings that come with rankdeck by those in the folder `results`.

    Raises:
        ValueError: a recording is missing, too large, or cannot be replayed.
    """
    from rankdeck.tui.sources.journal import SAMPLE, Journal, JournalError

    places = {"run": SAMPLE, "sweep": ROOT / "docs" / "recorded-sweep.jsonl"}
    for name in places:
        journal = results / f"recording-{name}" / run_directory.EVENTS_FILE
        try:
            Journal(journal)
        except JournalError as error:
            raise ValueError(str(error)) from None
        if (size := journal.stat().st_size) > MOST_BYTES:
            raise ValueError(f"{journal} has {size:,} bytes, more than {MOST_BYTES:,}")
    for name, place in places.items():
        shutil.copyfile(results / f"recording-{name}" / run_directory.EVENTS_FILE, place)
    return list(places.values())
