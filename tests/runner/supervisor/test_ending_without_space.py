"""How a run ends while its files cannot be written. In this process, without ranks: every prompt has its record."""

import asyncio
from pathlib import Path

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.inputs.frozen_prompts import freeze
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import records
from rankdeck.runner.run_directory.files import LineWriter
from rankdeck.runner.run_directory.run_file import RunFile, read_run_file, write_run_file
from rankdeck.runner.supervisor import outputs
from rankdeck.runner.supervisor.run import EXIT_DIED, Supervisor


def done_out_of_order(directory: Path) -> RunFile:
    """A run of two prompts that only has to put its records in order."""
    source = directory.parent / "p.txt"
    source.write_text("prompt 0\nprompt 1\n")
    freeze(str(source), directory / run_directory.PROMPTS_FILE, column=None, limit=None, chat=False)
    writer = LineWriter(directory / run_directory.OUTPUTS_FILE)
    for index in (1, 0):
        record = protocol.OutputRecord(
            index=index, id=str(index), prompt=f"prompt {index}", text="t", prompt_tokens=1, output_tokens=1,
            finish_reason="stop",
        )  # fmt: skip
        writer.write(protocol.encode_line(record))
    run = RunFile(name="r", started_at=1.0, config=RunConfig(prompts=str(source), ranks=1, device="cpu"), prompts=2)
    write_run_file(directory, run)
    return run


async def test_a_run_that_waits_for_space_at_its_end_ends_once_it_is_told_to_stop_now(tmp_path, monkeypatch):
    directory = tmp_path / "run"
    directory.mkdir()
    run = done_out_of_order(directory)
    loop, tries = asyncio.get_running_loop(), asyncio.Semaphore(0)

    def full(*_: object) -> None:
        loop.call_soon_threadsafe(tries.release)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "_replace", full)
    monkeypatch.setattr(outputs, "RETRY_SECONDS", 0.0)
    supervisor = Supervisor(directory, run, run_directory.Hold(directory))
    ending = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(30):
        for _ in range(3):
            await tries.acquire()
        assert not ending.done()
        supervisor.obey(protocol.Stop(now=False))
        for _ in range(3):
            await tries.acquire()
        assert not ending.done(), "it waits for space: there is no hurry"
        supervisor.obey(protocol.Stop(now=True))
        assert await ending == EXIT_DIED
    ended = read_run_file(directory)
    assert (ended.status, ended.exit_status) == ("failed", EXIT_DIED)
    assert "No space left on device" in (ended.cause or "")
    assert not run_directory.socket_path(directory).exists()
