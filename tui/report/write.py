"""Write the four files of a report: all are made before any is written, and each is replaced as a whole."""

import os
from pathlib import Path

from rankdeck.runner import run_directory
from rankdeck.runner.run_directory.private_files import open_regular
from rankdeck.tui.report import compare, html, markdown, run, source, tables

MARKS = {
    "report.html": html.HTML_MARK,
    "report.md": markdown.MARKDOWN_MARK,
    "report.csv": "run,",
    "report.json": f'"{tables.JSON_MARK}"',
}
"""Text near the beginning of each report file. A file without it is not ours to replace."""


class WriteError(Exception):
    """The report cannot be written there; the message is for people."""


def make(directory: Path, other: Path | None = None) -> dict[str, bytes]:
    """The report on the run in `directory`, compared with `other` if given, as file names and contents.

    Raises:
        RunFileError: one of them is not a run, or has nothing to report yet.
    """
    one = source.read(directory)
    if other is None:
        document = run.report(one)
        csv, json = tables.to_csv(one), tables.to_json(one)
    else:
        there = source.read(other)
        texts = source.equal_texts(directory, other)
        document = run.report(one, compare.compared(one, there, texts), also=there)
        csv, json = tables.to_csv(one, there), tables.to_json(one, there, texts)
    return {
        "report.html": html.to_html(document).encode(),
        "report.md": markdown.to_markdown(document).encode(),
        "report.csv": csv.encode(),
        "report.json": json,
    }


def put(files: dict[str, bytes], directory: Path) -> list[Path]:
    """Write the files into `directory`, creating it if necessary, and return their paths.

    Raises:
        WriteError: it cannot be written, or a file that is not a report of rankdeck is in the way.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise WriteError(f"{directory} is a file, not a directory; name another") from None
    except OSError as error:
        raise WriteError(f"{directory}: cannot be made: {error.strerror}") from None
    paths = [directory / name for name in files]
    for path in paths:
        _refuse_foreign(path)
    umask = os.umask(0)
    os.umask(umask)
    for path, content in zip(paths, files.values(), strict=True):
        try:
            run_directory.replace_file(path, content)
            path.chmod(0o666 & ~umask)
        except OSError as error:
            raise WriteError(f"{path}: cannot be written: {error.strerror}") from None
    return paths


def _refuse_foreign(path: Path) -> None:
    try:
        with open_regular(path) as file:
            head = file.read(1024)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteError(f"{path}: cannot be replaced: {error.strerror}") from None
    if MARKS[path.name].encode() not in head:
        raise WriteError(f"{path} exists and is not a rankdeck report; move it away, or name another directory")
