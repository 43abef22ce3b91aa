"""events.jsonl as a supervisor takes it up again: read as far as it can be, and mended around what is damaged.

Knows that the journal is no more than the story: which prompts are done, outputs.jsonl says. So nothing that is wrong
with it keeps a run from going on; what is damaged is set aside beside it. Does not write events.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from rankdeck.runner.protocol import PROTOCOL_VERSION, AnyEvent, BatchStarted, RanksLaunched, RunStarted
from rankdeck.runner.protocol.config import MAX_RANKS
from rankdeck.runner.run_directory.files import EVENTS_FILE, mend, moved_to
from rankdeck.runner.run_directory.private_files import is_file, lines_of, open_regular, unused_name
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.runner.state import RunState, apply


@dataclass
class Story:
    """What the journal tells: the state at its end, and the number of the next batch.

    `cut` is how many bytes of half a line were removed from its end; `said` is what else was done to it, for the log.
    """

    begun: bool = False
    state: RunState = field(default_factory=RunState)
    next_batch: int = 1
    cut: int = 0
    said: list[str] = field(default_factory=list)


def take_up_journal(directory: Path) -> Story:
    """Read the journal, and set aside what cannot be read.

    Raises:
        RunFileError: a newer rankdeck wrote it.
        OSError: it cannot be read or written.
    """
    path, story = directory / EVENTS_FILE, Story()
    if not os.path.lexists(path):
        return story
    if not is_file(path):
        kept = unused_name(path)
        path.rename(kept)
        story.said.append(f"{path.name} was not a file: it is {kept.name} now, and a new journal begins")
        return story
    story.cut = mend(path)
    damaged: list[tuple[int, int]] = []
    with open_regular(path) as file:
        position = 0
        for number, line in enumerate(lines_of(file), 1):
            after = _after(story.state, line, directory, f"{path}:{number}")
            if after is None:
                damaged.append((position, position + len(line)))
            else:
                story.begun, (story.state, batch) = True, after
                story.next_batch = max(story.next_batch, batch + 1)
            position += len(line)
        if damaged and not story.state.name:
            # Without its first event a journal cannot be replayed.
            kept = unused_name(path)
            path.rename(kept)
            story.said.append(f"{path.name} had lost its first event: it is {kept.name} now, and a new journal begins")
        elif damaged:
            kept = _without(path, file, damaged)
            lines = "1 damaged line was" if len(damaged) == 1 else f"{len(damaged):,} damaged lines were"
            story.said.append(f"{path.name}: {lines} set aside in {kept.name}")
    return story


_decoder: Any = msgspec.json.Decoder(AnyEvent)


def _after(state: RunState, line: bytes, directory: Path, where: str) -> tuple[RunState, int] | None:
    """The state after the event of this line, and its batch if it starts one; None if the line is damaged."""
    try:
        event = moved_to(directory, _decoder.decode(line))
        if isinstance(event, RunStarted) and event.version > PROTOCOL_VERSION:
            raise RunFileError(
                f"{where}: written by a newer rankdeck (protocol {event.version}, this one knows {PROTOCOL_VERSION}); "
                "upgrade rankdeck to resume it"
            )
        if not state.name and not isinstance(event, RunStarted):
            return None
        if isinstance(event, RanksLaunched) and not 0 < event.world_size <= MAX_RANKS:
            return None
        return apply(state, event), event.batch if isinstance(event, BatchStarted) else 0
    except (ValueError, RecursionError, ArithmeticError, LookupError, TypeError, AttributeError):
        return None  # no event, or one with figures that no supervisor writes


def _without(path: Path, file: BinaryIO, damaged: list[tuple[int, int]]) -> Path:
    """Replace the journal by one without these parts, which go into a file of their own. Returns that file."""
    rest, parts = _temporary(path), _temporary(path)
    try:
        with rest.open("wb") as good, parts.open("wb") as bad:
            position = 0
            for start, end in damaged:
                _copy(file, position, start, good)
                _copy(file, start, end, bad)
                position = end
            file.seek(position)
            shutil.copyfileobj(file, good)
            for target in (good, bad):
                target.flush()
                os.fsync(target.fileno())
        kept = unused_name(path)
        parts.rename(kept)
        os.replace(rest, path)
    except BaseException:
        rest.unlink(missing_ok=True)
        parts.unlink(missing_ok=True)
        raise
    return kept


def _copy(source: BinaryIO, start: int, end: int, target: BinaryIO) -> None:
    source.seek(start)
    while start < end and (block := source.read(min(1 << 20, end - start))):
        target.write(block)
        start += len(block)


def _temporary(path: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    return Path(name)


def write_again(path: Path, content: BinaryIO) -> None:
    """Put a journal back that was removed or replaced while it was written: `content` is what it had.

    Raises:
        OSError: it cannot be written.
    """
    content.seek(0)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as target:
            shutil.copyfileobj(content, target)
        if path.is_dir() and not path.is_symlink():
            path.rename(unused_name(path))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
