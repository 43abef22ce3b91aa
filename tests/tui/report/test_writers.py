"""What writes a report, each part by itself: escaping to the letter, how figures read, files and their modes."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from markupsafe import Markup
from msgspec.structs import replace

from rankdeck.runner import run_directory
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.runner.sweep.verdict import summarise_sweep
from rankdeck.tui.report import document, html, markdown, source, tables, write
from rankdeck.tui.report.answers import MOST_BARS, quantile, section
from rankdeck.tui.report.chart import draw
from rankdeck.tui.report.document import (
    NOT_AVAILABLE,
    NOT_THERE,
    Chart,
    Column,
    Document,
    Fact,
    Item,
    Notice,
    Prose,
    Section,
    Table,
    words,
)
from rankdeck.tui.report.markdown import escape, to_markdown
from rankdeck.tui.report.plot import Axis, Bar, Line, Mark, Plot, Point, Wall
from rankdeck.tui.report.settings import setting
from rankdeck.tui.report.source import Answers, PromptError
from rankdeck.tui.words.sweep import Value
from tests import scripted_sweep
from tests.hostile import PAYLOAD, UNSAFE
from tests.reports import record, write_recorded, write_run

EVIL = f"<b>|`*_[x]$#~\\&amp; {PAYLOAD}"

# --- Markdown -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain words, 1.5 (so)", "plain words, 1.5 (so)"),
        ("<b> & </b>", "&lt;b&gt; &amp; &lt;/b&gt;"),
        ("&lt;", "&amp;lt;"),
        *((sign, f"\\{sign}") for sign in "\\`*_[]|~$#"),
        ("a\nb\x1b", "a↵b␛"),
        ("http://x HTTPS://x ftp://x", "http&#58;//x HTTPS&#58;//x ftp&#58;//x"),
        ("mailto:a xmpp:a", "mailto&#58;a xmpp&#58;a"),
        ("www.x.org", "www&#46;x.org"),
        ("a@b.org", "a&#64;b.org"),
        ("awww.x bhttp:x", "awww.x bhttp:x"),
    ],
)
def test_a_text_in_markdown_reads_as_it_is_and_is_no_markup_entity_or_link(text: str, written: str) -> None:
    assert escape(text) == written


def of_evil() -> Document:
    """A document with a hostile text wherever one can be."""
    plot = Plot(
        key="k", title=EVIL, description=EVIL, x=Axis(EVIL, EVIL, scale="log2", values=[1, 2]), y=Axis(EVIL, EVIL),
        lines=[Line(name=EVIL, points=[Point(1, 1), Point(2, 2, 0.5)])], marks=[Mark(1, EVIL)],
        walls=[Wall(2, EVIL), Wall(2, EVIL, 1.0)],
    )  # fmt: skip
    item = Item(EVIL, EVIL, note=EVIL)
    table = Table(
        title=EVIL, columns=[Column(EVIL, EVIL), Column(EVIL, number=False)], rows=[[item, words(EVIL)]], note=EVIL,
        strong=[0],
    )  # fmt: skip
    return Document(
        title=EVIL, facts=[EVIL, EVIL], notices=[Notice("bad", EVIL, EVIL)], headline=[Fact(EVIL, item, EVIL)],
        sections=[Section("one", EVIL, [Prose([EVIL, EVIL]), table, Chart(plot)])], version=EVIL,
    )  # fmt: skip


def test_no_text_wherever_it_stands_becomes_markup_or_steers_whoever_reads_the_file() -> None:
    text = to_markdown(of_evil())
    assert not UNSAFE.search(text)
    body = text.removeprefix(markdown.MARKDOWN_MARK)
    assert "<" not in body
    assert text.count("\\|\\`\\*\\_\\[x\\]") >= 12
    assert text.count("\n| ") == 2 + 1 + 3, "no cell became two, no line a row"
    page = html.to_html(of_evil())
    assert not UNSAFE.search(page)
    assert "<b>" not in page
    assert page.count("&lt;b&gt;") >= 15
    drawing = page[page.index("<svg") : page.index("</svg>") + 6]
    ElementTree.fromstring(drawing)


def test_markup_in_a_page_is_only_what_was_drawn_here() -> None:
    assert html._shown("a\x1b<b>") == "a␛<b>", "the template escapes it"
    assert html._shown(Markup("<svg/>\n")) == "<svg/>\n"
    assert html._shown(5) == 5
    assert [html._exact(Item(raw, "shown")) for raw in (0.1 + 0.2, 7, "x", None)] == [
        "0.30000000000000004", "7", "'x'", "None",
    ]  # fmt: skip


def test_a_table_in_markdown_is_aligned_marked_and_noted() -> None:
    table = Table(
        title="T", columns=[Column("name", number=False), Column("rate", "tok/s")], note="N", strong=[1],
        rows=[[words("a"), Item(1.0, "1.0", "± 2", look="best")], [words("all"), Item(None, "")]],
    )  # fmt: skip
    made = Document(
        title="D", facts=["one", "two"], notices=[Notice("info", "Note.")], headline=[Fact("f", words("v"), "u")],
        sections=[Section("s", "S", [table, Prose(["P"])])], version="1",
    )  # fmt: skip
    assert to_markdown(made) == "\n".join(
        [
            "<!-- rankdeck report -->", "", "# D", "", "one · two", "", "> **Note.**", "",
            "| figure | value | unit |", "| :--- | ---: | :--- |", "| f | v | u |", "", "## S", "",
            "**T**", "", "| name | rate, tok/s |", "| :--- | ---: |", "| a | **1.0 ± 2 ★** |", "| **all** |  |", "",
            "N", "", "P", "",
        ]
    )  # fmt: skip


# --- CSV ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *((f"{sign}1", f"'{sign}1") for sign in "=+-@＝＋－＠"),  # noqa: RUF001
        ("  =1", "'  =1"), ("\u00a0=1", "'\u00a0=1"), ("a=1", "a=1"), ("", ""), ("   ", "   "), ("a\x1b\n", "a␛↵"),
        ("-", "'-"),
    ],
)  # fmt: skip
def test_a_text_in_a_cell_is_shown_and_never_evaluated(text: str, cell: str) -> None:
    assert tables.harmless(text) == tables._cell(text) == cell


def test_values_in_cells_are_exact_and_lists_keep_their_texts_harmless() -> None:
    assert [tables._cell(value) for value in (None, 0.1 + 0.2, -3, True, [1, "=x", None], (1.5,))] == [
        "", "0.30000000000000004", "-3", "True", "1;'=x;", "1.5",
    ]  # fmt: skip


# --- how figures read -----------------------------------------------------------------------------


def test_figures_keep_their_exact_value_beside_what_is_shown() -> None:
    assert document.whole(1234) == Item(1234, "1,234")
    assert document.decimals(1234.5678, 2) == Item(1234.5678, "1,234.57")
    assert document.share(0.12345) == Item(0.12345, "12.35%")
    assert document.share(0.12345, 1) == Item(0.12345, "12.3%")
    assert document.figure(Value(1.5, "1.5", "0.2"), "best") == Item(1.5, "1.5", "± 0.2", "best")
    assert document.figure(Value(1.5, "1.5")) == Item(1.5, "1.5")
    for missing in (document.whole(None), document.decimals(None, 1), document.share(None), document.figure(None)):
        assert missing == NOT_AVAILABLE == Item(None, "n/a", look="dim")
    assert NOT_THERE.text == "-"
    assert (document.whole(0).number, words("0").number, NOT_THERE.number) == (True, False, False)


def test_a_moment_reads_the_same_for_every_reader() -> None:
    assert document.moment(1_700_000_000) == "2023-11-14 22:13 UTC"
    assert document.moment(1e300) == document.moment(float("nan")) == "n/a"


@pytest.mark.parametrize(
    ("columns", "text", "width"),
    [(5, "x" * 45, "compact"), (5, "x" * 46, ""), (6, "x", ""), (7, "x", ""), (8, "x", "dense")],
)
def test_columns_stand_closer_where_there_are_few_short_ones_or_many(columns: int, text: str, width: str) -> None:
    row = [words(text)] * columns
    assert Table(title="", columns=[Column("c")] * columns, rows=[row]).width == width
    assert Table(title="", columns=[Column("c")], rows=[]).width == "compact"


def test_columns_without_any_value_are_left_out_but_for_the_first() -> None:
    table = Table(
        title="T", columns=[Column("a"), Column("b"), Column("c")], note="n",
        rows=[[NOT_THERE, words("x"), NOT_AVAILABLE], [NOT_THERE, NOT_THERE, NOT_AVAILABLE]],
    )  # fmt: skip
    kept = document.without_empty(table)
    assert [column.title for column in kept.columns] == ["a", "b"]
    assert kept.rows == [[NOT_THERE, words("x")], [NOT_THERE, NOT_THERE]]
    assert (kept.title, kept.note) == ("T", "n")


def test_a_setting_reads_as_people_say_it() -> None:
    assert setting("batch_size", None) == Item(None, "auto", look="dim")
    assert setting("limit", None) == Item(None, "not set", look="dim")
    assert [setting("x", value).text for value in (True, False, [1, 2], 0.5, "a")] == ["yes", "no", "1, 2", "0.5", "a"]


# --- answers --------------------------------------------------------------------------------------


def test_answers_are_counted_by_how_they_ended_and_the_first_errors_listed() -> None:
    errors = [PromptError(3, "id-3", "bad")]
    found = Answers({"stop": 6, "length": 1, "error": 3}, {1: 3, 10: 3, 26: 1}, errors)
    made = section(SimpleNamespace(answers=found))  # type: ignore[arg-type]
    assert made is not None
    reasons, chart, lengths, failed = made.blocks
    assert isinstance(reasons, Table)
    assert [[item.text for item in row] for row in reasons.rows] == [
        ["stop", "the model ended the answer", "6", "60.0%"],
        ["length", "cut off at the most new tokens", "1", "10.0%"],
        ["error", "no answer", "3", "30.0%"],
    ]
    assert isinstance(lengths, Table)
    assert [item.text for item in lengths.rows[0]] == ["output tokens", "1", "10", "8.4", "26", "26"]
    assert isinstance(failed, Table)
    assert [item.text for item in failed.rows[0]] == ["3", "id-3", "bad"]
    assert failed.note == "The first 1 of 3."
    assert isinstance(chart, Chart)
    assert chart.plot.bars == [Bar(0, 2, 3), Bar(8, 10, 3), Bar(24, 26, 1)]
    assert "in bars of 2; the longest has 26" in chart.plot.description
    everyone = replace(found, reasons={"error": 1}, lengths={})
    made = section(SimpleNamespace(answers=everyone))  # type: ignore[arg-type]
    assert made is not None
    assert [block.note for block in made.blocks if isinstance(block, Table)] == ["", ""], "all errors are listed"
    for nothing in (None, Answers({}, {}, [])):
        assert section(SimpleNamespace(answers=nothing)) is None  # type: ignore[arg-type]


def test_bars_are_as_few_as_can_be_read_and_hold_their_upper_edge() -> None:
    for longest, width in ((25, 1), (26, 2), (50, 2), (51, 5), (0, 1)):
        found = Answers({"stop": 1}, {longest: 1}, [])
        made = section(SimpleNamespace(answers=found))  # type: ignore[arg-type]
        assert made is not None
        chart = made.blocks[1]
        assert isinstance(chart, Chart)
        (bar,) = chart.plot.bars
        assert (bar.high - bar.low, bar.high / width <= MOST_BARS) == (width, True)
        assert bar.low < longest <= bar.high or longest == bar.low == 0


def test_a_quantile_is_the_length_that_so_many_answers_do_not_exceed() -> None:
    lengths = {1: 1, 2: 1, 3: 1, 4: 1, 5: 6}
    assert [quantile(lengths, part) for part in (0.1, 0.11, 0.4, 0.5, 0.9, 1.0)] == [1, 2, 4, 5, 5, 5]


# --- reading --------------------------------------------------------------------------------------


def test_of_many_errors_the_first_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    failed = [record(index, finish_reason="error", error=f"e{index}") for index in range(source.ERRORS_KEPT + 3)]
    write_run(tmp_path / "r", [record(99), *failed])
    answers = source.read(tmp_path / "r").answers
    assert answers is not None
    assert (answers.count, answers.reasons) == (24, {"stop": 1, "error": 23})
    assert [error.error for error in answers.errors] == [f"e{index}" for index in range(20)]
    assert answers.lengths == {7: 1}, "an error has no length"


def test_texts_of_two_runs_are_compared_prompt_by_prompt(tmp_path: Path) -> None:
    one = [record(index, f"text {index}") for index in range(14)]
    other = [record(0, "text 0"), *(record(index, "another") for index in range(1, 12)), record(50)]
    other += [record(12, "text 12", prompt="another"), record(13, finish_reason="error", error="e")]
    write_run(tmp_path / "a", one[::-1])
    write_run(tmp_path / "b", other)
    found = source.equal_texts(tmp_path / "a", tmp_path / "b")
    assert found is not None
    assert (found.equal, found.differing, found.other_prompt, found.only_one, found.only_other) == (1, 11, 1, 1, 1)
    assert found.first == sorted(range(2, 12)), "ten of them, as they were met"
    (tmp_path / "b" / run_directory.OUTPUTS_FILE).write_bytes(b"nonsense\n")
    assert source.equal_texts(tmp_path / "a", tmp_path / "b") is None


@pytest.mark.parametrize(
    ("alive", "said"), [(True, "has just begun"), (False, "lost its supervisor before it had any")]
)
def test_a_run_without_figures_is_refused_with_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool, said: str
) -> None:
    write_run(tmp_path / "r", status="running", summary=None)
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda _: alive)
    with pytest.raises(RunFileError, match=f"^r {said}"):
        source.read(tmp_path / "r")


def test_a_run_is_live_only_while_it_runs_and_has_a_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "over")
    write_run(tmp_path / "on", status="running")
    for alive in (True, False):
        monkeypatch.setattr(run_directory, "supervisor_alive", lambda _, alive=alive: alive)
        assert source.read(tmp_path / "over").live is False
        assert source.read(tmp_path / "on").live is alive


def test_of_a_damaged_journal_the_line_is_named_and_one_that_is_torn_at_its_end_is_taken(tmp_path: Path) -> None:
    write_recorded(tmp_path / "r")
    path = tmp_path / "r" / run_directory.EVENTS_FILE
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)

    def missing(content: bytes) -> list[str]:
        path.write_bytes(content)
        found = source.read(tmp_path / "r")
        assert (found.state is None) is bool(found.missing)
        return found.missing

    assert missing(whole) == []
    assert missing(whole[:-20]) == []
    without = "Without it there is no chart over time"
    newer = lines[0].replace(b'"version":1', b'"version":9')
    assert missing(lines[0] + newer + lines[1]) == [
        f"The journal: {path}:2: written by a newer rankdeck (format 9, this one reads 2); install that one to see all "
        f"of it. {without} and nothing of the knobs."
    ]
    assert missing(lines[1]) == [
        f"The journal: {path}:1: a journal begins with run_started. {without} and nothing of the knobs."
    ]
    assert missing(b"") == [f"The journal: {path} is empty. {without}."]
    (damaged,) = missing(lines[0] + b"{}\n" + lines[1])
    assert damaged.startswith(f"The journal: {path}:2")


def test_the_figures_of_a_sweep_are_run_jsons_and_only_older_ones_are_judged_anew(tmp_path: Path) -> None:
    script = scripted_sweep.tied()
    assert script.state.sweep is not None
    judged = summarise_sweep(script.state.sweep)
    stored = replace(judged, trials=99)
    directory = tmp_path / "s"
    journal = b"".join(msgspec.json.encode(event) + b"\n" for event in script.events)
    for sweep, found in ((stored, stored), (replace(stored, verdict=None), judged), (None, judged)):
        write_run(directory, config=script.state.config, sweep=sweep)
        (directory / run_directory.EVENTS_FILE).write_bytes(journal)
        assert source.read(directory).sweep == found
        assert source.read(directory).is_sweep


def test_a_journal_is_torn_only_after_all_that_was_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for content, events, torn in (
        (b"a\nb\nc", 2, True),
        (b"a\nb\n", 2, False),
        (b"a\nb\nc", 1, False),
        (b"a\nb", 2, False),
    ):
        path.write_bytes(content)
        assert source._torn_after(path, events) is torn


# --- writing --------------------------------------------------------------------------------------

FILES = {"report.html": b'<meta name="generator" content="rankdeck">', "report.md": b"<!-- rankdeck report -->\n"}


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_are_readable_as_the_user_has_files_and_the_umask_stays(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        paths = write.put(FILES, tmp_path / "new" / "deep")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert paths == [tmp_path / "new" / "deep" / name for name in FILES]
    assert [path.read_bytes() for path in paths] == list(FILES.values())
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o666 & ~umask}
    assert sorted(os.listdir(paths[0].parent)) == sorted(FILES), "nothing is left beside them"


def test_nothing_is_written_where_any_of_the_files_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("x" * 1024 + markdown.MARKDOWN_MARK)
    with pytest.raises(write.WriteError) as raised:
        write.put(FILES, tmp_path)
    assert str(raised.value) == (
        f"{tmp_path / 'report.md'} exists and is not a rankdeck report; move it away, or name another directory"
    )
    assert os.listdir(tmp_path) == ["report.md"], "the mark is not where a report has it"


def test_every_file_of_a_report_has_the_mark_by_which_it_is_known_again(tmp_path: Path) -> None:
    write_recorded(tmp_path / "r")
    files = write.make(tmp_path / "r")
    assert set(files) == set(write.MARKS)
    for name, content in files.items():
        assert write.MARKS[name].encode() in content[:1024], name
    assert msgspec.json.decode(files["report.json"])[tables.JSON_MARK] == 1


# --- charts ---------------------------------------------------------------------------------------


def test_names_of_lines_marks_and_walls_are_shown_and_long_ones_cut_beside_the_line() -> None:
    long = "n" * 300
    plot = Plot(
        key="k", title="t", description="d", x=Axis("x"), y=Axis("y"),
        lines=[Line(name=long, points=[Point(1, 1, 0.25)])], marks=[Mark(0.5, "m\x1b")], walls=[Wall(1, "w\x1b")],
    )  # fmt: skip
    svg = ElementTree.fromstring(draw(plot))
    texts: list[Any] = [element.text for element in svg.iter() if element.text]
    assert f"{long}: 1, 1 ± 0.25" in texts, "its whole name is in its marker"
    (name,) = [text for text in texts if text.startswith("nnn") and text.endswith("…")]
    assert len(name) < 40
    assert texts.count("m␛") == texts.count("w␛") == 2
    kinds = {element.get("class") for element in svg.iter("g")}
    assert {"mark", "wall"} <= kinds
