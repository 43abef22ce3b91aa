"""The file picker: folders and files of prompts, picked with the keyboard, whatever their names."""

import os
import threading
from pathlib import Path

import pytest
from textual.app import ComposeResult
from textual.binding import Binding
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Input

from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.app.base import BaseApp
from rankdeck.tui.start import folder
from rankdeck.tui.start.files import FilePicker, FolderList, entry_line, matching
from rankdeck.tui.start.folder import Entry, Listing, read_folder
from rankdeck.tui.words.text import line_width, plain
from tests.dashboards import ScriptedLauncher, until, whole_screen


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with an entry of every kind."""
    here = tmp_path / "home"
    here.mkdir()
    (here / "prompts").mkdir()
    (here / "prompts" / "nested.jsonl").write_text('{"prompt": "a"}\n')
    (here / ".hidden").mkdir()
    (here / ".secret.txt").write_text("x\n")
    (here / "stories.txt").write_text("one\ntwo\nthree")
    (here / "Answers.CSV").write_text("a,b\n1,2\n")
    (here / "jokes.txt").write_text("")
    (here / "notes.md").write_text("no prompts")
    (here / "broken.txt").symlink_to("nowhere")
    os.mkfifo(here / "pipe.txt")
    return here


def names(listing: Listing) -> list[str]:
    return [entry.name for entry in listing.entries]


def test_a_folder_lists_folders_first_and_only_files_of_prompts(home: Path) -> None:
    listing = read_folder(str(home))
    assert names(listing) == ["prompts", "Answers.CSV", "jokes.txt", "stories.txt"]
    assert listing.entries[3] == Entry("stories.txt", False, 13, 3)
    assert names(read_folder(str(home), hidden=True)) == [".hidden", "prompts", ".secret.txt", *names(listing)[1:]]


@pytest.mark.parametrize(
    ("name", "is_listed"),
    [("p.ndjson", True), ("p.TSV", True), ("p.jsonl.gz", True), ("p.parquet", True), ("p.gz", False), ("p.zip", False)],
)
def test_every_kind_of_file_that_a_run_takes_is_listed(tmp_path: Path, name: str, is_listed: bool) -> None:
    (tmp_path / name).write_bytes(b"one\ntwo\n")
    listing = read_folder(str(tmp_path))
    assert names(listing) == ([name] if is_listed else [])
    if name.endswith((".gz", ".parquet")):
        assert all(entry.lines is None for entry in listing.entries), "its lines are not those of its text"


def test_the_path_of_a_file_or_of_nothing_lists_the_nearest_folder(home: Path) -> None:
    assert read_folder(str(home / "stories.txt")).path == str(home)
    assert read_folder(str(home / "gone" / "further")).path == str(home)
    assert read_folder("").path == os.getcwd()
    assert read_folder("~nobody-of-that-name/x").path == os.getcwd()


def test_in_a_working_directory_that_is_gone_the_home_is_listed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("HOME", str(home))
    for path in ("", "p", "~/"):
        assert read_folder(path).path == str(home)


def test_a_folder_that_cannot_be_read_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    assert read_folder(str(home)).error == "cannot be listed: Permission denied"


def test_the_filter_finds_names_that_contain_it_and_those_that_begin_with_it_first() -> None:
    entries = (Entry("a-story.txt", False), Entry("Stories", True), Entry("other.txt", False))
    assert [entry.name for entry in matching(entries, "STOR")] == ["Stories", "a-story.txt"]
    assert matching(entries, "") == list(entries)


@pytest.mark.parametrize(
    "name", ["\x1b[2J.txt", "[red]markup[/].txt", "a\nb.txt", "\u202etxt.exe", "\udcff.txt", "x" * 300]
)
@pytest.mark.parametrize("width", [20, 60, 120])
def test_a_hostile_name_is_escaped_and_fits_its_line(name: str, width: int) -> None:
    line = entry_line(Entry(name, False, 10, 1), width)
    assert line_width(line) == width
    assert plain([line]).isprintable()


def test_a_folder_of_thousands_is_cut_and_lines_are_counted_in_a_few_small_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (folder.MOST_ENTRIES, folder.COUNTED_FILES, folder.SMALL_BYTES) == (5000, 200, 2**20)
    monkeypatch.setattr(folder, "MOST_ENTRIES", 3)
    listing = read_folder(str(home))
    assert (names(listing), listing.more) == (["prompts", "Answers.CSV", "jokes.txt"], 1)
    monkeypatch.setattr(folder, "MOST_ENTRIES", 4)
    assert (len(read_folder(str(home)).entries), read_folder(str(home)).more) == (4, 0)
    monkeypatch.setattr(folder, "COUNTED_FILES", 2)
    assert [entry.lines for entry in read_folder(str(home)).entries] == [None, 2, 0, None]
    monkeypatch.setattr(folder, "SMALL_BYTES", 12)
    assert [entry.lines for entry in read_folder(str(home)).entries] == [None, 2, 0, None], "13 bytes are too many"
    monkeypatch.setattr(folder, "COUNTED_FILES", 9)
    monkeypatch.setattr(folder, "SMALL_BYTES", 13)
    assert [entry.lines for entry in read_folder(str(home)).entries] == [None, 2, 0, 3]


def test_a_line_of_the_list_has_the_name_its_lines_and_its_size_where_there_is_room() -> None:
    assert plain([entry_line(Entry("prompts", True), 40)]) == "  prompts/"
    assert plain([entry_line(Entry("prompts", True), 40, here=True)]) == "▸ prompts/"
    file = Entry("a.txt", False, 2048, 1)
    assert plain([entry_line(file, 50)]) == "  a.txt" + " " * 27 + "1 line     2 KiB"[-16:].rjust(16)
    assert plain([entry_line(file, 49)]) == "  a.txt" + "2 KiB".rjust(42)
    assert "line" not in plain([entry_line(file._replace(lines=None), 60)])
    assert entry_line(file, 50, here=True)[1][1] == "strong"


class Picked(BaseApp):
    """A list of entries, and what is picked from it."""

    def __init__(self) -> None:
        super().__init__()
        self.list = FolderList()
        self.picked: list[str] = []

    def compose(self) -> ComposeResult:
        yield self.list

    def on_folder_list_picked(self, event: FolderList.Picked) -> None:
        self.picked.append(event.entry.name)


async def test_the_cursor_of_the_list_goes_by_pages_and_a_second_click_picks() -> None:
    entries = [Entry(f"{number:02}.txt", False) for number in range(40)]
    app = Picked()
    async with app.run_test(size=(60, 10)) as pilot:
        listed = app.list
        listed.show(entries, "", at="05.txt")
        listed.focus()
        await pilot.pause()
        moves = {binding.key: binding.action for binding in FolderList.BINDINGS if isinstance(binding, Binding)}
        assert moves["up,k"] == "move(-1)"
        assert moves["down,j"] == "move(1)"
        assert (moves["pageup"], moves["pagedown"]) == ("page(-1)", "page(1)")
        assert (moves["home"], moves["end"]) == ("edge(0)", "edge(1)")
        for action, by, number in (
            (listed.action_move, 1, 6), (listed.action_page, 1, 15), (listed.action_page, -1, 6),
            (listed.action_page, -1, 0), (listed.action_move, -1, 0), (listed.action_edge, 1, 39),
            (listed.action_page, 1, 39), (listed.action_edge, 0, 0),
        ):  # fmt: skip
            action(by)
            assert listed.entry == entries[number], (action, by)
        await pilot.click(FolderList, offset=(3, 4))
        assert (listed.entry, app.picked) == (entries[4], []), "the first click goes there"
        await pilot.click(FolderList, offset=(3, 4))
        await pilot.pause()
        assert app.picked == ["04.txt"]
        listed.show(entries[:2], "")
        await pilot.pause()
        await pilot.click(FolderList, offset=(3, 5))
        assert listed.entry == entries[0], "below the last one there is nothing"
        listed.show([], "nothing here")
        listed.action_pick()
        await pilot.pause()
        assert app.picked == ["04.txt"]
        assert "nothing here" in whole_screen(app)


# --- with the keyboard --------------------------------------------------------------------------------


class Opened:
    """A picker opened from the start screen at a folder."""

    def __init__(self, folder: Path) -> None:
        self.launcher = ScriptedLauncher()
        self.app = RankdeckApp(None, launcher=self.launcher)
        self._folder = folder

    async def open(self, pilot: Pilot[object]) -> None:
        await until(pilot, lambda: self.prompts == "stories.txt")
        self.app.screen.query_one("#prompts", Input).value = str(self._folder)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(self.app.screen, FilePicker) and bool(self.entries.entries))

    @property
    def entries(self) -> FolderList:
        return self.app.screen.query_one(FolderList)

    @property
    def here(self) -> str:
        return self.entries.entry.name if self.entries.entry is not None else ""

    @property
    def listed(self) -> list[str]:
        return [entry.name for entry in self.entries.entries]

    @property
    def prompts(self) -> str:
        return self.app.screen_stack[0].query_one("#prompts", Input).value


async def test_a_file_is_picked_with_the_arrows(home: Path) -> None:
    opened = Opened(home)
    async with opened.app.run_test(size=(80, 24)) as pilot:
        await opened.open(pilot)
        assert opened.here == "prompts"
        await pilot.press("end", "enter")
        await until(pilot, lambda: opened.prompts == str(home / "stories.txt"))
        assert not isinstance(opened.app.screen, FilePicker)
    assert threading.get_ident() not in opened.launcher.threads


async def test_leaving_a_folder_puts_the_cursor_back_on_it(home: Path) -> None:
    opened = Opened(home)
    async with opened.app.run_test(size=(80, 24)) as pilot:
        await opened.open(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "nested.jsonl" in opened.listed)
        await pilot.press("backspace")
        await until(pilot, lambda: opened.here == "prompts")
        await pilot.press("j", "j", "k")
        assert opened.here == "Answers.CSV"
        await pilot.press("home")
        assert opened.here == ".."
        await pilot.press("enter")
        await until(pilot, lambda: opened.here == "home")


async def test_typing_filters_and_backspace_removes_the_filter(home: Path) -> None:
    opened = Opened(home)
    async with opened.app.run_test(size=(80, 24)) as pilot:
        await opened.open(pilot)
        await pilot.press("s", "t", "o")
        await until(pilot, lambda: opened.listed == ["stories.txt"])
        await pilot.press("backspace", "backspace", "backspace")
        await until(pilot, lambda: "jokes.txt" in opened.listed)
        await pilot.press("backspace")
        await until(pilot, lambda: opened.app.focused is opened.entries)
        await pilot.press("slash", "j", "o")
        await until(pilot, lambda: opened.listed == ["jokes.txt"])
        await pilot.press("enter")
        await until(pilot, lambda: opened.prompts.endswith("jokes.txt"))


async def test_a_key_shows_and_hides_hidden_files(home: Path) -> None:
    opened = Opened(home)
    async with opened.app.run_test(size=(80, 24)) as pilot:
        await opened.open(pilot)
        await pilot.press("full_stop")
        await until(pilot, lambda: ".secret.txt" in opened.listed)
        await pilot.press("full_stop")
        await until(pilot, lambda: ".secret.txt" not in opened.listed)


async def test_escape_leaves_the_filter_and_then_the_picker_without_a_change(home: Path) -> None:
    opened = Opened(home)
    async with opened.app.run_test(size=(80, 24)) as pilot:
        await opened.open(pilot)
        await pilot.press("s", "escape")
        await until(pilot, lambda: "jokes.txt" in opened.listed)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(opened.app.screen, FilePicker))
        assert opened.prompts == str(home)


async def test_an_empty_folder_and_a_filter_without_a_match_are_explained(home: Path) -> None:
    (home / "prompts" / "nested.jsonl").unlink()
    opened = Opened(home)
    async with opened.app.run_test(size=(80, 24)) as pilot:
        await opened.open(pilot)
        await pilot.press("z", "z")
        await until(pilot, lambda: "nothing here is called 'zz'" in whole_screen(opened.app))
        await pilot.press("escape")
        await pilot.press("enter")
        await until(pilot, lambda: "no folder and no .txt" in whole_screen(opened.app))
        await pilot.press("backspace")
        await until(pilot, lambda: opened.here == "prompts")


async def test_a_file_with_a_hostile_name_is_escaped_and_can_be_picked(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    name = "a\x1b[31m\nb[red].txt"
    (folder / name).write_text("x")
    opened = Opened(folder)
    async with opened.app.run_test(size=(80, 24)) as pilot:
        await opened.open(pilot)
        await pilot.press("end", "enter")
        await until(pilot, lambda: not isinstance(opened.app.screen, FilePicker))
        assert opened.prompts.isprintable()
        screen = opened.app.screen
        assert screen._form.values()["prompts"] == str(folder / name)  # type: ignore[attr-defined]
        assert "\x1b" not in whole_screen(opened.app)


async def test_letters_that_arrive_together_all_go_into_the_filter(tmp_path: Path) -> None:
    for name in ("raj.txt", "rest.txt"):
        (tmp_path / name).write_text("a prompt\n")
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(FilePicker(read_folder, f"{tmp_path}/"))
        await until(pilot, lambda: "raj.txt" in whole_screen(app))
        for key in "raj":
            app.post_message(Key(key, key))  # all at once, as over a slow line
        await pilot.pause(0.5)
        assert app.screen.query_one("#picker-filter", Input).value == "raj"
