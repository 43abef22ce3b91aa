"""Answers written to real files: in each format, whole or not at all, replacing nothing without consent."""

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from textual.pilot import Pilot
from textual.widgets import Input

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.screens.answer_files import KINDS, ExportError, Target, gather, suggested, target, write
from rankdeck.tui.screens.export import ExportScreen
from rankdeck.tui.widgets.answer_list import AnswerList
from rankdeck.tui.widgets.query_field import QueryField
from tests import scripted
from tests.dashboards import settled, until, whole_screen
from tests.scripted_source import ScriptedSource

EVIL = '\x1b]0;owned\x07 [red]x[/] "quoted", a\r\nnew line\tand \u202eback\x00 ünïcode 🜁 =1+1'
RECORDS = [
    scripted.record(0, rank=0),
    scripted.record(1, rank=1, text=EVIL),
    replace(scripted.record(2, rank=None, text=""), finish_reason="error", error="CUDA out of memory", batch=None),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def as_somebody(attempt: Callable[[], object]) -> str:
    """The error of an attempt by a user other than root, in a child process: root may write anywhere."""
    ear, mouth = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            attempt()
        except Exception as error:
            os.write(mouth, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(mouth)
    os.waitpid(pid, 0)
    with os.fdopen(ear, "rb") as said:
        return said.read().decode()


# --- formats --------------------------------------------------------------------------------------


def test_records_come_back_as_they_were(here: Path) -> None:
    assert write(RECORDS, Target(here / "a.jsonl", False)) == 3
    decoder = msgspec.json.Decoder(OutputRecord)
    assert [decoder.decode(line) for line in (here / "a.jsonl").read_bytes().splitlines()] == RECORDS
    assert b"\x1b" not in (here / "a.jsonl").read_bytes()


def test_a_table_comes_back_cell_by_cell(here: Path) -> None:
    assert write(RECORDS, Target(here / "a.csv", False)) == 3
    with (here / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(OutputRecord.__struct_fields__)
    assert [(row["text"], row["error"], row["rank"]) for row in rows] == [
        (RECORDS[0].text, "", "0"),
        (EVIL, "", "1"),
        ("", "CUDA out of memory", ""),
    ]


def test_a_text_file_has_no_terminal_codes(here: Path) -> None:
    assert write(RECORDS, Target(here / "a.txt", False)) == 3
    text = (here / "a.txt").read_text(encoding="utf-8")
    assert not set(text) & set("\x1b\x07\x00\r\u202e")
    assert '␛]0;owned␇ [red]x[/] "quoted", a\nnew line    and ⟨U+202E⟩back␀ ünïcode 🜁 =1+1' in text
    assert text.count("finish ") == 3


def test_no_answers_make_an_empty_file(here: Path) -> None:
    for kind in KINDS:
        assert write([], Target(here / f"a{kind}", False)) == 0
    assert (here / "a.jsonl").read_bytes() == (here / "a.txt").read_bytes() == b""
    assert (here / "a.csv").read_text().startswith("index,id,prompt")


def test_old_answers_come_from_disk_and_the_newest_from_the_view() -> None:
    newest = scripted.record(3)
    stored = [RECORDS[1], RECORDS[0]]
    found = list(gather(stored, [*RECORDS[:2], newest], lambda record: record.index != 0))
    assert found == [RECORDS[1], newest], "in the file's order, each once"
    assert list(gather(None, RECORDS, lambda _: True)) == RECORDS


# --- whole or not at all --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RunFileError("damaged"), KeyboardInterrupt()]
)
def test_a_file_that_could_not_be_written_whole_does_not_exist(here: Path, error: BaseException) -> None:
    def torn() -> Iterator[OutputRecord]:
        yield from RECORDS
        assert not (here / "new.jsonl").exists(), "it is written beside"
        raise error

    (here / "old.jsonl").write_text("precious\n")
    for name, replaces in (("new.jsonl", False), ("old.jsonl", True)):
        with pytest.raises(type(error)):
            write(torn(), Target(here / name, replaces), replace=replaces)
    assert names(here) == ["old.jsonl"], "nothing half done is left behind"
    assert (here / "old.jsonl").read_text() == "precious\n"


def test_a_file_that_appears_meanwhile_is_kept(here: Path) -> None:
    def somebody_writes() -> Iterator[OutputRecord]:
        yield RECORDS[0]
        (here / "a.jsonl").write_text("precious\n")

    with pytest.raises(ExportError, match="has appeared meanwhile"):
        write(somebody_writes(), Target(here / "a.jsonl", False))
    assert names(here) == ["a.jsonl"]
    assert (here / "a.jsonl").read_text() == "precious\n"


def test_a_file_is_replaced_if_the_user_agreed(here: Path) -> None:
    (here / "a.jsonl").write_text("old\n" * 1000)
    write(RECORDS, Target(here / "a.jsonl", True), replace=True)
    assert (here / "a.jsonl").read_bytes().count(b"\n") == 3


def test_a_link_stays_a_link_and_its_target_is_replaced(here: Path, tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old\n")
    (here / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    to = target("link.jsonl", tmp_path / "run")
    assert to == Target(tmp_path / "real.jsonl", True)
    write(RECORDS, to, replace=True)
    assert (here / "link.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl").read_bytes().count(b"\n") == 3


def test_a_file_has_the_mode_of_any_file_of_the_user(here: Path) -> None:
    before = os.umask(0o027)
    try:
        write(RECORDS, Target(here / "a.jsonl", False))
    finally:
        os.umask(before)
    assert (here / "a.jsonl").stat().st_mode & 0o777 == 0o640


def test_a_file_name_of_the_greatest_length_can_be_written(here: Path) -> None:
    name = "x" * 249 + ".jsonl"
    write(RECORDS, target(name, here / "run"))
    assert names(here) == [name]


# --- where it may go ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give the file a name"),
        ("   ", "give the file a name"),
        ("answers", r"end the name in \.jsonl"),
        ("answers.json", r"end the name in \.jsonl"),
        (".csv", r"end the name in \.jsonl"),
        ("nowhere/a.csv", "there is no directory .*/work/nowhere"),
        ("folder.csv", "folder.csv is a directory"),
        ("pipe.txt", "pipe.txt is no file that could be replaced"),
        ("a.csv/b.csv", "there is no directory .*/work/a.csv"),
        ("~nobody-of-that-name/a.csv", "no such place: Could not determine home directory"),
        ("a\x00b.csv", "no such place: embedded null byte"),
        ("x" * 300 + ".csv", "no such place: File name too long"),
        ("../run/outputs.jsonl", "outputs.jsonl belongs to the run"),
        ("../run/prompts.jsonl", "prompts.jsonl belongs to the run"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_with_the_reason(
    here: Path, tmp_path: Path, text: str, said: str
) -> None:
    (here / "folder.csv").mkdir()
    (here / "a.csv").write_text("")
    os.mkfifo(here / "pipe.txt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / run_directory.PROMPTS_FILE).write_text("")
    with pytest.raises(ExportError, match=said) as caught:
        target(text, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_directory_without_write_permission_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o555)
        said = as_somebody(lambda: target(f"{name}/a.csv", Path("/nowhere")))
        assert said == f"ExportError: no permission to write in {name}"
        said = as_somebody(lambda: write(RECORDS, Target(Path(name, "a.csv"), False)))
        assert said.startswith("PermissionError"), "nor where that changes while it is asked"
        os.chmod(name, 0o700)
        assert names(Path(name)) == []
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o000)
        said = as_somebody(lambda: target(f"{name}/deeper/a.csv", Path("/nowhere")))
        assert said == "ExportError: no such place: Permission denied"


def test_a_working_directory_that_was_deleted_is_refused(here: Path) -> None:
    here.rmdir()
    with pytest.raises(ExportError, match="no such place: No such file or directory"):
        target("a.csv", Path("/nowhere"))


def test_a_tilde_is_the_users_home(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert target("~/a.csv", here / "run") == Target(tmp_path / "a.csv", False)
    assert target("  ../A.CSV ", here / "run") == Target(tmp_path / "A.CSV", False)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("calm-harbour", "calm-harbour-outputs.jsonl"),
        ("../../etc/passwd", "etc-passwd-outputs.jsonl"),
        ("[red]x[/]", "red-x-outputs.jsonl"),
        ("\x1b[2J\n", "2J-outputs.jsonl"),
        ("...", "run-outputs.jsonl"),
        ("", "run-outputs.jsonl"),
        ("über", "über-outputs.jsonl"),
        ("x" * 1000, "x" * 80 + "-outputs.jsonl"),
    ],
)
def test_a_suggested_name_is_a_plain_name_whatever_the_run_is_called(here: Path, run: str, name: str) -> None:
    assert suggested(run, filtered=False) == name
    assert target(name, here / "run").path.parent == here


def test_a_suggested_name_is_free(here: Path) -> None:
    for _ in range(3):
        (here / suggested("a", filtered=True)).write_text("")
    assert names(here) == ["a-filtered-2.jsonl", "a-filtered-3.jsonl", "a-filtered.jsonl"]


# --- the dialog -----------------------------------------------------------------------------------


def outputs(**options: Any) -> RankdeckApp:
    script = scripted.running()
    for number, record in enumerate(RECORDS):
        script.add(protocol.Output(record=replace(record, index=90 + number, id=str(90 + number))))
    return RankdeckApp(ScriptedSource(script.events), **options)


async def asked(pilot: Pilot[Any], query: str, name: str) -> Input:
    """The dialog for the answers that match the query, with that name in it."""
    await settled(pilot)
    await pilot.press("2")
    await pilot.pause()
    screen = pilot.app.screen
    screen.query_one(QueryField).ask(query)
    answers = screen.query_one(AnswerList)
    await until(pilot, lambda: answers.selection.query.text == query and answers.selection.listing.complete)
    await pilot.press("E")
    await pilot.pause()
    assert isinstance(pilot.app.screen, ExportScreen)
    field = pilot.app.screen.query_one(Input)
    field.value = name
    await pilot.pause()
    return field


def said(app: RankdeckApp) -> str:
    return " ".join(f"{toast.title} {toast.message}" for toast in app._notifications)


@pytest.mark.parametrize("kind", KINDS)
async def test_only_the_listed_answers_are_written(here: Path, kind: str) -> None:
    app = outputs()
    async with app.run_test(size=(120, 40)) as pilot:
        await asked(pilot, "rank:1 #>40", f"a{kind}")
        wanted = [
            app.followed.book.get(index)
            for index in range(100)
            if (record := app.followed.book.get(index)) and record.rank == 1
        ]
        wanted = [record for record in wanted if record and record.index > 40]
        await pilot.press("enter")
        await until(pilot, lambda: "Exported" in said(app))
        assert f"{len(wanted)} answers in {here / f'a{kind}'}" in said(app)
    text = (here / f"a{kind}").read_text(encoding="utf-8")
    if kind == ".jsonl":
        assert {json.loads(line)["index"] for line in text.splitlines()} == {r.index for r in wanted if r}
    elif kind == ".csv":
        with (here / "a.csv").open(encoding="utf-8", newline="") as file:
            assert {int(row["index"]) for row in csv.DictReader(file)} == {r.index for r in wanted if r}
    else:
        assert text.count("\n\nanswer\n") == len(wanted)
    assert names(here) == [f"a{kind}"]


async def test_answers_on_disk_that_are_not_listed_are_written_too(here: Path) -> None:
    stored = [scripted.record(index, rank=1) for index in range(500, 700)]
    app = outputs(earlier=lambda _: stored)
    async with app.run_test(size=(120, 40)) as pilot:
        await asked(pilot, "rank:1 #>=90", "a.jsonl")
        await pilot.press("enter")
        await until(pilot, lambda: "Exported" in said(app))
    written = [json.loads(line)["index"] for line in (here / "a.jsonl").read_text().splitlines()]
    assert written == [*range(500, 700), 91]


async def test_a_file_that_exists_is_replaced_only_by_a_second_enter(here: Path) -> None:
    (here / "old.csv").write_text("precious\n")
    app = outputs()
    async with app.run_test(size=(120, 40)) as pilot:
        field = await asked(pilot, "", "old.csv")
        assert "old.csv exists; enter asks again" in whole_screen(app)
        await pilot.press("enter")
        await pilot.pause()
        assert "would be lost; enter replaces it" in whole_screen(app)
        field.value = "old.csv "
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ExportScreen), "another name is asked about again"
        assert (here / "old.csv").read_text() == "precious\n"
        await pilot.press("enter")
        await until(pilot, lambda: "Exported" in said(app))
    assert (here / "old.csv").read_text().startswith("index,id")


@pytest.mark.parametrize(
    "name", ["nowhere/a.csv", "a.png", "~nobody-of-that-name/a.csv", "a\x00.csv", "x" * 300 + ".csv"]
)
async def test_an_invalid_name_is_reported_at_once_and_escape_writes_nothing(here: Path, name: str) -> None:
    app = outputs()
    async with app.run_test(size=(80, 24)) as pilot:
        await asked(pilot, "", name)
        assert "✗" in whole_screen(app)
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ExportScreen)
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(app.screen, ExportScreen)
    assert names(here) == []


async def test_an_error_while_writing_is_reported(here: Path) -> None:
    def damaged(directory: Path) -> Iterator[OutputRecord]:
        yield scripted.record(500)
        raise RunFileError("outputs.jsonl:7: damaged")

    app = outputs(earlier=damaged)
    async with app.run_test(size=(120, 40)) as pilot:
        await asked(pilot, "", "a.csv")
        await pilot.press("enter")
        await until(pilot, lambda: "Not exported" in said(app))
        assert "outputs.jsonl:7: damaged" in said(app)
        assert "Nothing was written" in said(app)
    assert names(here) == []


async def test_a_hostile_query_and_run_are_data_in_the_dialog(here: Path) -> None:
    app = outputs()
    async with app.run_test(size=(120, 40)) as pilot:
        await asked(pilot, "[red]x[/] \x1b[2J", "[bold]a[/].csv")
        shown = whole_screen(app)
        assert "Write the answers that match [red]x[/] ␛[2J" in shown
        assert "there is no directory" in shown
        assert "/[bold]a[" in shown
        assert "\x1b" not in shown
