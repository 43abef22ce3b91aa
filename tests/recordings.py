"""Journals for the tests of replays: scripted runs of every kind, written as a supervisor writes them."""

from collections.abc import Sequence
from pathlib import Path

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, encode_line
from tests import scripted, scripted_steering
from tests.scripted import Script


def journal_of(path: Path, events: Sequence[AnyEvent], tail: bytes = b"") -> Path:
    path.write_bytes(b"".join(encode_line(event) for event in events) + tail)
    return path


def taken_up_hours_later() -> Script:
    """Its supervisor was killed in the third round; what was missing was done three hours later."""
    script = scripted.running()
    before = script.state
    again = protocol.RunTakenUp(
        config=scripted.config(),
        completed=before.completed,
        failed=0,
        prompt_tokens=before.prompt_tokens,
        output_tokens=before.output_tokens,
    )
    script.next_index = before.completed
    script.wait(3 * 3600).add(again).launched().loading().ready()
    while script.next_index < script.prompts:
        script.round()
    return script.ended()


RUNS = {
    "completed": scripted.completed,
    "failed": scripted.failed,
    "taken_up": taken_up_hours_later,
    "supervisor_lost": scripted.running,
    "steered": scripted_steering.STATES["knob_turned"],
    "relaunched": scripted_steering.STATES["relaunched"],
}
