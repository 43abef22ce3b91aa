"""Recordings: as small as they must be, and nobody's."""

from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import AnyEvent, BatchFinished, BatchResult, Output, OutputRecord
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.sources.journal import Journal
from tests.gpu import recording
from tests.reports import write_run

UUID = "1f2e3d4c-aaaa-bbbb-cccc-0123456789ab"


def output(index: int, text: str = "word " * 400) -> Output:
    record = OutputRecord(
        index=index, id=str(index), prompt="why " * 100, text=text, prompt_tokens=9, output_tokens=100,
        finish_reason="length", rank=0, batch=1,
    )  # fmt: skip
    return Output(at=index, record=record)


def size_of(lines: list[bytes]) -> int:
    return sum(map(len, lines))


def test_texts_are_cut_until_a_journal_is_small_enough_and_what_is_counted_stays() -> None:
    few, many = [output(0)], [output(index) for index in range(1000)]
    assert msgspec.json.decode(recording.small_enough(few, bytes)[0])["record"]["text"] == "word " * 400
    lines = recording.small_enough(many, bytes)
    assert size_of(lines) <= recording.MOST_BYTES
    assert [msgspec.json.decode(line)["record"]["output_tokens"] for line in lines] == [100] * 1000


def test_the_times_of_single_steps_are_left_out_where_there_are_too_many() -> None:
    result = BatchResult(
        rows=1, prompt_tokens=1, output_tokens=1, slots=1, padded_slots=0, steps=100, prefill_seconds=0.0,
        decode_seconds=1.0, seconds=1.0, step_seconds=[0.0123456789] * 100,
    )  # fmt: skip
    events: list[AnyEvent] = [BatchFinished(rank=0, batch=number, result=result) for number in range(500)]
    lines = recording.small_enough(events, bytes)
    assert size_of(lines) <= recording.MOST_BYTES
    assert msgspec.json.decode(lines[0])["result"]["steps"] == 100


def test_no_path_host_or_gpu_of_the_machine_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "grace"))
    directory, models = tmp_path / "scratch" / "run-two-ranks", tmp_path / "shm" / "models"
    directory.parent.mkdir()
    write_run(directory, [])
    socket = run_directory.socket_path(directory)
    ready = protocol.RankReady(
        rank=0, device="cuda:0", device_name="H100", device_uuid=UUID, dtype="bfloat16", engine="static", seconds=1,
        parameters=1,
    )  # fmt: skip
    events = [
        protocol.RunStarted(
            name="run-two-ranks",
            directory=str(directory),
            config=RunConfig(prompts=str(tmp_path / "scratch" / "p.txt"), model=str(models / "random-7B")),
            prompts=1,
        ),
        ready,
        protocol.LogLine(source="supervisor", text=f"starting {tmp_path}/grace/x {socket}"),
        protocol.Tick(devices=[protocol.DeviceSample(index=0, uuid=f"GPU-{UUID}", name="H100")]),
        output(0),
    ]  # fmt: skip
    (directory / run_directory.EVENTS_FILE).write_bytes(b"".join(protocol.encode_line(event) for event in events))
    target = tmp_path / "recording-run"
    recording.record(directory, "run", models, target)
    told = b"".join(path.read_bytes() for path in target.iterdir())
    for own in (str(tmp_path), "run-two-ranks", UUID, "grace", str(socket.parent)):
        assert own.encode() not in told, own
    assert b"/home/ada/models/random-7B" in told
    assert b'"device_uuid":"00000000-0000-0000-0000-000000000000"' in told
    assert b'"uuid":"GPU-00000000-0000-0000-0000-000000000000"' in told
    assert len(Journal(target / run_directory.EVENTS_FILE)) == len(events)
    assert run_directory.read_run_file(target).name == "run"


def test_results_without_recordings_are_not_shipped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recording-run/events.jsonl: cannot be read"):
        recording.ship(tmp_path)
