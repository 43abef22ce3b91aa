"""The report has the findings of the timeline, in the words of the dashboard."""

import json

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.advice.findings import findings
from rankdeck.runner.state import summarise
from tests import scripted_timeline
from tests.reports import Page, reported, write_run


def test_a_finding_on_a_round_that_was_not_full_is_in_every_format(tmp_path):
    script = scripted_timeline.second_round()
    state, run = script.state, tmp_path / "rounds"
    write_run(run, config=state.config, prompts=state.prompts, summary=summarise(state))
    journal = b"".join(msgspec.json.encode(event) + b"\n" for event in script.events)
    (run / run_directory.EVENTS_FILE).write_bytes(journal)
    assert reported(run).exit_code == 0
    said = [found.text for found in findings(state)]
    assert any("Round 2 of 2 was 25% full" in text for text in said)
    page = Page(run / "report.html")
    assert "What the timeline shows" in page.text
    assert all(text in page.text for text in said)
    markdown = (run / "report.md").read_text()
    assert "## What the timeline shows" in markdown
    assert "Round 2 of 2 was 25% full" in markdown
    assert json.loads((run / "report.json").read_bytes())["findings"] == said


def test_a_run_without_findings_or_without_a_journal_has_no_such_section(tmp_path):
    write_run(tmp_path / "bare")
    assert reported(tmp_path / "bare").exit_code == 0
    assert "What the timeline shows" not in Page(tmp_path / "bare" / "report.html").text
    assert json.loads((tmp_path / "bare" / "report.json").read_bytes())["findings"] is None
