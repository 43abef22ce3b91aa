"""`rankdeck doctor`: what this machine has, what would not work, and how to fix it. runner.machine finds it out."""

import asyncio
import shutil
import sys
from typing import Annotated

import msgspec
import typer

from rankdeck.runner.machine import doctor as findings
from rankdeck.runner.machine import examine
from rankdeck.tui.terminal.inert import say, say_json, tell
from rankdeck.tui.words.doctor import WORDS, doctor_lines, verdict
from rankdeck.tui.words.text import plain

WIDEST = 100
EXIT_INTERRUPTED = 130


def doctor(json: Annotated[bool, typer.Option("--json", help="The findings as a JSON object.")] = False) -> None:
    """Say what this machine has, and what would not work here, with the cure. Exit status 1 if so."""
    if sys.stderr.isatty():
        tell("rankdeck: checking; asking torch takes a few seconds")
    try:
        facts = msgspec.structs.replace(examine.facts(), torch=asyncio.run(examine.ask_torch()))
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    checks = findings.findings(facts)
    worst = findings.worst(checks)
    if json:
        say_json(msgspec.json.encode({"status": worst, "checks": checks}).decode())
    else:
        width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
        for line in (*doctor_lines(checks, width, WORDS), (), verdict(checks)):
            say(plain([line]))
    raise typer.Exit(1 if worst == "bad" else 0)
