"""The report of a run: figures that agree to the digit, texts that are escaped, and what there is of a damaged run."""

import csv
import json
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol.config import RunConfig
from tests.reports import Page, markdown_tables, record, reported, summary, write_recorded, write_run, write_sweep
from tests.runner.supervisor.test_supervisor import PROMPTS, watch

NAMES = ["report.html", "report.md", "report.csv", "report.json"]


def number(text: str) -> float:
    return float(text.replace(",", ""))


async def test_every_figure_agrees_to_the_digit_with_run_json(launch):
    started = launch([*PROMPTS, "!raise"])
    await watch(started)
    started.process.wait(10)
    result = reported(started.directory)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [str(started.directory / name) for name in NAMES]
    run = json.loads((started.directory / "run.json").read_bytes())
    figures = run["summary"]

    page = Page(started.directory / "report.html")
    assert float(page.headline["output tokens per second, natural length"]) == figures["tokens_per_second"]
    assert int(page.headline["output tokens"]) == figures["output_tokens"]
    assert int(page.headline["prompts done"]) == figures["completed"] == 25
    assert int(page.headline["prompts failed"]) == figures["failed"] == 1
    assert float(page.headline["seconds"]) == figures["seconds"]
    assert float(page.headline["padding waste"]) == figures["padding_waste"]

    fields = "rank", "prompts", "batches", "prompt_tokens", "output_tokens", "tokens_per_second"
    shown, exact = page.tables["Each rank's share"][1:-1], page.exact["Each rank's share"][1:-1]
    marked = markdown_tables((started.directory / "report.md").read_text())
    ranks = next(table for table in marked if table[0][0] == "rank")[2:-1]
    for rank, row, values, line in zip(figures["ranks"], shown, exact, ranks, strict=True):
        del row[1], values[1], line[1]
        assert [number(cell) for cell in row[:6]] == [rank[field] for field in fields]
        assert [number(cell) for cell in line[:6]] == [rank[field] for field in fields]
        assert [float(value) for value in values[6:]] == [rank["padding_waste"], rank["idle"]]
        assert row[6:] == line[6:] == [f"{rank[field] * 100:.2f}%" for field in ("padding_waste", "idle")]

    with (started.directory / "report.csv").open() as file:
        whole, *lines = csv.DictReader(file)
    assert float(whole["tokens_per_second"]) == figures["tokens_per_second"]
    assert float(whole["seconds"]) == figures["seconds"]
    for rank, line in zip(figures["ranks"], lines, strict=True):
        assert {name: str(value) for name, value in rank.items()}.items() <= line.items()

    written = json.loads((started.directory / "report.json").read_bytes())
    assert written["run"] == run
    assert written["summary"] == figures
    assert written["finish_reasons"]["error"] == 1


def test_a_recorded_run_shows_its_curve_the_turned_knobs_and_what_each_setting_brought(tmp_path):
    write_recorded(tmp_path / "stories")
    assert reported(tmp_path / "stories").exit_code == 0
    page = Page(tmp_path / "stories" / "report.html")
    assert page.tables["What happened on the way"][1:] == [
        ["11.9", "batch size", "batch size 8"],
        ["23.3", "active ranks", "1 active"],
        ["35.3", "active ranks", "2 active"],
    ]
    settings = [row[:2] for row in page.tables["What each setting of the knobs brought"][1:]]
    assert settings == [["4", "2"], ["8", "2"]]
    assert "not every active rank ended a whole batch: 1 rank x 8." in page.text
    assert page.tables["How they ended"][1][2] == "10"
    for words in ("mean 86", "2 active", "time since the first batch (s)", "padding is never counted", "SmolLM2"):
        assert words in page.text


def test_the_html_stands_alone_and_is_accessible(tmp_path):
    write_recorded(tmp_path / "stories")
    reported(tmp_path / "stories")
    page = Page(tmp_path / "stories" / "report.html")
    policy = next(attributes for _, attributes in page.tags if attributes.get("http-equiv"))
    assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not {"script", "link", "img", "iframe", "a", "form", "input"} & {tag for tag, _ in page.tags}
    assert not any(name in attributes for _, attributes in page.tags for name in ("src", "href", "style"))
    assert "url(" not in page.source
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 2
    for attributes in charts:
        assert attributes["role"] == "img"
        assert set(attributes["aria-labelledby"].split()) <= set(identifiers)
    for drawing in page.source.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + drawing.split("</svg>")[0] + "</svg>")


HOSTILE = "<script>alert(1)</script> | `x` **b** [l](http://e.vil) \x1b[31m\u202e{{ 7*7 }} {0} %s\nnext"


def test_texts_from_runs_are_escaped_in_every_format(tmp_path):
    errors = [record(0, finish_reason="error", error=HOSTILE, id="=1+1"), record(1, HOSTILE, prompt=HOSTILE)]
    config = RunConfig(prompts=HOSTILE, model=HOSTILE, ranks=2)
    figures = summary()
    ranks = [msgspec.structs.replace(rank, device="=HYPERLINK(1)") for rank in figures.ranks]
    figures = msgspec.structs.replace(figures, ranks=ranks)
    write_run(tmp_path / "r", errors, name=HOSTILE, config=config, cause=HOSTILE, status="failed", summary=figures)
    assert reported(tmp_path / "r").exit_code == 0
    page = Page(tmp_path / "r" / "report.html")
    assert "script" not in {tag for tag, _ in page.tags}
    assert (
        page.text.count("<script>alert(1)</script> | `x` **b** [l](http://e.vil) ␛[31m⟨U+202E⟩{{ 7*7 }} {0} %s↵") >= 4
    )
    assert "\x1b" not in page.source
    assert "\u202e" not in page.source

    text = (tmp_path / "r" / "report.md").read_text()
    assert not [part for part in ("<script", "\x1b", "\u202e", "http://", " [l]") if part in text]
    errors_table = next(table for table in markdown_tables(text) if table[0][-1] == "error")
    assert len(errors_table) == 3
    assert {len(row) for row in errors_table} == {3}
    assert r"\`x\` \*\*b\*\* \[l\](http&#58;//e.vil)" in text

    with (tmp_path / "r" / "report.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[2][2] == "'=HYPERLINK(1)"
    assert not any(cell[:1] in "=+-@" for row in rows for cell in row if cell)
    assert json.loads((tmp_path / "r" / "report.json").read_bytes())["run"]["name"] == HOSTILE


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@x", " =1", "\t=1", "＝1"])  # noqa: RUF001
def test_no_text_in_csv_is_a_spreadsheet_formula(start, tmp_path):
    write_run(tmp_path / "r", name=start)
    reported(tmp_path / "r")
    with (tmp_path / "r" / "report.csv").open() as file:
        assert list(csv.reader(file))[1][0].startswith("'")


# --- runs that did not go well ----------------------------------------------------------------------


async def test_a_live_run_is_reported_with_its_figures_so_far(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    started = launch(PROMPTS)
    seen = []

    async def when(message, source):
        if isinstance(message, protocol.BatchFinished) and not seen:
            seen.append(reported(started.directory))
            seen.append(Page(started.directory / "report.html").text)

    await watch(started, when=when)
    assert seen[0].exit_code == 0, seen[0].stderr
    assert "The run is still going." in seen[1]


def test_a_run_that_lost_its_supervisor_is_reported_from_its_journal(tmp_path):
    write_recorded(tmp_path / "r", status="running", summary=None)
    journal = tmp_path / "r" / "events.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])  # killed while it wrote
    assert reported(tmp_path / "r").exit_code == 0
    page = Page(tmp_path / "r" / "report.html")
    assert "lost its supervisor" in page.text
    assert "rankdeck resume r" in page.text
    assert int(page.headline["prompts done"]) == 100
    assert "Throughput over time" in page.text


@pytest.mark.parametrize(
    ("status", "said"), [("failed", "The run failed."), ("stopped", "The run was stopped before its end.")]
)
def test_a_run_that_did_not_reach_its_end_says_so_and_why(tmp_path, status, said):
    write_run(tmp_path / "r", status=status, cause="rank 1 was killed", summary=summary(completed=0, failed=0))
    reported(tmp_path / "r")
    for name in ("report.html", "report.md"):
        text = (tmp_path / "r" / name).read_text()
        assert said in text
        assert "rank 1 was killed" in text
        assert "No prompt is done." in text


def test_a_run_that_failed_before_any_figures_is_reported_with_what_is_known(tmp_path):
    write_run(tmp_path / "r", status="failed", cause="no such model", summary=None)
    assert reported(tmp_path / "r").exit_code == 0
    text = Page(tmp_path / "r" / "report.html").text
    assert "no such model" in text
    assert "run.json has no figures" in text


def newer(journal: bytes) -> bytes:
    return journal.replace(b'"version":1', b'"version":99', 1)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (None, "events.jsonl: cannot be read"),
        (lambda journal: b"", "is empty"),
        (lambda journal: b"\xff\xfe\n" + journal, "events.jsonl:1"),
        (lambda journal: journal.split(b"\n", 1)[1], "begins with run_started"),
        (lambda journal: journal.replace(b"\n", b"\n{}\n", 1), "events.jsonl:2"),
        (newer, "newer rankdeck"),
    ],
)
def test_without_an_intact_journal_the_report_uses_run_json_alone_and_says_so(tmp_path, damage, said):
    write_recorded(tmp_path / "r")
    path = tmp_path / "r" / "events.jsonl"
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    assert reported(tmp_path / "r").exit_code == 0
    page = Page(tmp_path / "r" / "report.html")
    assert "Something is missing." in page.text
    assert said in page.text
    assert float(page.headline["seconds"]) == run_directory.read_run_file(tmp_path / "r").summary.seconds
    assert "Throughput over time" not in page.tables


def test_damaged_answers_are_named_and_the_rest_is_reported(tmp_path):
    write_run(tmp_path / "r", [record(0)])
    (tmp_path / "r" / "outputs.jsonl").write_bytes(b"nonsense\n")
    assert reported(tmp_path / "r").exit_code == 0
    assert "outputs.jsonl:1: damaged" in Page(tmp_path / "r" / "report.html").text


# --- where it goes, and what is refused ---------------------------------------------------------------


def test_an_earlier_report_is_replaced_and_a_missing_directory_is_created(tmp_path):
    write_run(tmp_path / "r")
    assert reported(tmp_path / "r").exit_code == 0
    write_run(tmp_path / "r", summary=summary(rate=999.001))
    assert reported(tmp_path / "r").exit_code == 0
    assert "999.001" in (tmp_path / "r" / "report.md").read_text()
    assert sorted(os.listdir(tmp_path / "r")) == sorted([*NAMES, "run.json", "outputs.jsonl"])
    result = reported(tmp_path / "r", "--output", tmp_path / "new" / "deep")
    assert result.stdout.split() == [str(tmp_path / "new" / "deep" / name) for name in NAMES]
    assert all(Path(line).is_file() for line in result.stdout.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_not_a_report_of_rankdeck_is_left_alone(tmp_path, name):
    write_run(tmp_path / "r")
    (tmp_path / "r" / name).write_text("my own notes")
    result = reported(tmp_path / "r")
    assert result.exit_code == 2
    assert f"{name} exists and is not a rankdeck report" in result.stderr
    assert (tmp_path / "r" / name).read_text() == "my own notes"
    assert [found for found in NAMES if (tmp_path / "r" / found).exists()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_in_the_place_of_a_report_is_refused_and_not_waited_for(tmp_path, name):
    write_run(tmp_path / "r")
    os.mkfifo(tmp_path / "r" / name)
    result = reported(tmp_path / "r")
    assert result.exit_code == 2
    assert f"{name}: cannot be replaced: it is a pipe, not a file" in result.stderr


def test_what_cannot_be_reported_or_written_is_refused_with_status_2(tmp_path):
    write_run(tmp_path / "r")
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "report.md").mkdir(parents=True)
    write_run(tmp_path / "young", status="running", summary=None)
    write_sweep(tmp_path / "s")
    shutil.copytree(tmp_path / "r", tmp_path / "odd")
    (tmp_path / "odd" / "run.json").write_text("{}")
    for arguments, said in (
        (("nowhere",), "there is no run called 'nowhere'"),
        ((tmp_path / "odd",), "cannot be read as a run"),
        ((tmp_path / "young",), "there is nothing to report of it"),
        ((tmp_path / "r", "--output", tmp_path / "file"), "is a file, not a directory"),
        ((tmp_path / "r", "--output", tmp_path / "file" / "x"), "cannot be made: Not a directory"),
        ((tmp_path / "r", "--output", "/proc"), "/proc/report.html: cannot be written"),
        ((tmp_path / "r", "--output", tmp_path / "taken"), "report.md: cannot be replaced"),
        ((tmp_path / "r", "--compare", "nowhere"), "there is no run called 'nowhere'"),
        ((tmp_path / "r", "--compare", tmp_path / "r"), "is the same run"),
    ):
        result = reported(*arguments)
        assert result.exit_code == 2, arguments
        assert said in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
