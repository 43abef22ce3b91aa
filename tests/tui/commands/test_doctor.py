"""`rankdeck doctor`: its lines or its JSON, and the status that says whether something would not work."""

import json
import shutil
import sys
from typing import Any

import pytest

from rankdeck.runner.machine.check import Check
from rankdeck.runner.machine.facts import Facts, TorchFound
from rankdeck.tui.commands import doctor
from rankdeck.tui.words.doctor import WORDS, doctor_lines
from rankdeck.tui.words.text import plain
from tests.tui.commands.test_cli import rankdeck

FACTS = Facts()
TORCH = TorchFound(cuda="12.8")
GOOD = Check(group="software", name="torch", status="ok", found="2.13")
WARN = Check(group="gpu", name="NVML", status="warn", found="none", cure="install it")
BAD = Check(group="places", name="state", status="bad", found="not writable " * 20, cure="free it")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What is found, from what this machine and torch were asked."""
    found: list[Check] = [GOOD]

    async def ask_torch() -> TorchFound:
        return TORCH

    def findings(facts: Facts) -> list[Check]:
        assert facts == doctor.msgspec.structs.replace(FACTS, torch=TORCH)
        return found

    monkeypatch.setattr(doctor.examine, "facts", lambda: FACTS)
    monkeypatch.setattr(doctor.examine, "ask_torch", ask_torch)
    monkeypatch.setattr(doctor.findings, "findings", findings)
    return found


@pytest.mark.parametrize(("more", "status"), [([], 0), ([WARN], 0), ([WARN, BAD], 1), ([BAD], 1)])
def test_only_what_would_not_work_makes_it_fail(checks: list[Check], more: list[Check], status: int) -> None:
    checks += more
    for words in ((), ("--json",)):
        result = rankdeck("doctor", *words)
        assert (result.exit_code, result.stderr) == (status, "")
        if words:
            data = json.loads(result.stdout)
            assert data["status"] == ("bad" if BAD in checks else "warn" if WARN in checks else "ok")
            assert [(one["name"], one["status"], one["cure"]) for one in data["checks"]] == [
                (one.name, one.status, one.cure) for one in checks
            ]


@pytest.mark.parametrize(("columns", "width"), [(60, 60), (99, 99), (100, 100), (200, 100)])
def test_its_lines_are_as_wide_as_the_terminal_but_a_hundred_at_most_and_end_with_the_verdict(
    checks: list[Check], monkeypatch: pytest.MonkeyPatch, columns: int, width: int
) -> None:
    checks += [WARN, BAD]
    asked: list[Any] = []

    def size(fallback: Any) -> Any:
        asked.append(fallback)
        return doctor.shutil.os.terminal_size((columns, 24))  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "get_terminal_size", size)
    lines = rankdeck("doctor").stdout.splitlines()
    assert lines[:-2] == [plain([line]) for line in doctor_lines(checks, width, WORDS)]
    assert max(map(len, lines[:-2])) <= width
    assert lines[-2] == ""
    assert lines[-1] == plain([doctor.verdict(checks)])
    assert asked == [(100, 24)], "without a terminal it is as wide as it may be"


def test_somebody_who_waits_at_a_terminal_is_told_why_and_may_leave(
    checks: list[Check], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    def interrupted() -> Facts:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor.examine, "facts", interrupted)
    with pytest.raises(doctor.typer.Exit) as left:
        doctor.doctor()
    assert left.value.exit_code == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "rankdeck: checking; asking torch takes a few seconds\n")
