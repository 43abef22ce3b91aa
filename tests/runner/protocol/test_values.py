"""Values in messages: what follows from their fields, what a field means that an older rankdeck did not write, and how
a message becomes a line."""

import json
from typing import Any

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchResult, DeviceSample, OutputRecord, Prompt, record_digest
from rankdeck.runner.protocol.first_batch import FirstBatch, first_batch
from rankdeck.runner.protocol.framing import GREETINGS, encode, encode_line
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState, Trial, TrialRecord, TrialResult, warm_up_tokens

DEFAULTS: dict[type, dict[str, Any]] = {
    protocol.Arrived: {},
    protocol.BatchStarted: {"at": 0.0, "warm_up": False, "kept": True},
    protocol.BatchFailed: {"at": 0.0, "leaving": False},
    protocol.Cancel: {},
    protocol.Leave: {"gather": False},
    protocol.ModelProgress: {"at": 0.0, "label": None, "done": None, "total": None},
    protocol.RankHello: {"version": 2},
    protocol.RankReady: {
        "at": 0.0,
        "engine_reason": "",
        "engine_lead": None,
        "engine_over": "",
        "device_uuid": None,
        "pci_bus_id": None,
        "threads": None,
        "context_tokens": None,
        "generation": {},
        "parameter_bytes": None,
        "weight_read_bytes": None,
        "experts": None,
        "kv_bytes_per_token": None,
        "memory_free_bytes": None,
        "memory_total_bytes": None,
        "memory_left_bytes": None,
        "bandwidth_bytes_per_second": None,
        "matrix_flops_per_second": None,
        "device_uuids": [],
        "cores": None,
        "most_rows": None,
    },
    protocol.RankSilent: {"at": 0.0, "process": None, "patience": None},
    protocol.RanksLaunched: {"at": 0.0, "restarts_left": 0},
    protocol.RankExited: {"error": None},
    protocol.RunEnded: {"at": 0.0, "cause": None},
    protocol.RunStarted: {"at": 0.0, "version": 2, "done": 0, "asked_at": 0.0},
    protocol.StartRank: {"attempt": 1, "store": None, "environment": {}, "engine_hint": None},
    protocol.Stop: {"now": False},
    protocol.SweepStarted: {
        "at": 0.0,
        "bandwidth_bytes_per_second": None,
        "bandwidth_source": None,
        "no_mbu": None,
    },
    protocol.TelemetryStarted: {"at": 0.0, "reason": None},
    protocol.Tick: {"at": 0.0, "steps": [], "devices": None, "processes": None},
    protocol.ViewerHello: {"version": 2},
    protocol.Work: {"measure": False, "keep": True, "max_new_tokens": None, "stream": None},
    BatchResult: {
        "row_steps": None,
        "peak_memory_bytes": None,
        "reserved_memory_bytes": None,
        "step_seconds": None,
        "slots_read": None,
        "shared_tokens": 0,
    },
    OutputRecord: {"error": None, "rank": None, "batch": None},
    protocol.StepsInFlight: {"rows": None, "cache_used": None, "prefix_hits": None},
    TrialRecord: {"result": None, "reason": None},
    TrialResult: {
        "peak_memory_bytes": None,
        "rank_peak_memory_bytes": [],
        "reserved_memory_bytes": None,
        "busy_percent": None,
        "dram_percent": None,
        "tensor_percent": None,
        "power_watts": None,
        "tokens_per_joule": None,
        "mbu": None,
    },
    SweepState: {
        "records": (),
        "current": None,
        "since": 0.0,
        "took": {},
        "measuring": False,
        "bandwidth_bytes_per_second": None,
        "bandwidth_source": None,
        "no_mbu": None,
        "settled": None,
    },
}
"""Written out by hand: a line of an older journal lacks a field, and means this."""


@pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)
def test_a_field_that_was_not_written_means_the_same_in_every_version(kind):
    found = {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(kind)
        if not field.required
    }
    assert found == DEFAULTS[kind]


def test_of_a_gpu_everything_but_its_name_may_be_unknown():
    sample = DeviceSample(index=0, uuid="GPU-1", name="H100")
    known = {name: value for name, value in msgspec.structs.asdict(sample).items() if value is not None}
    assert known == {"index": 0, "uuid": "GPU-1", "name": "H100", "lost": False, "unavailable": {}}
    assert not sample.is_mig
    assert DeviceSample(index=0, uuid="MIG-1", name="H100").is_mig


def result(**known: object) -> BatchResult:
    return BatchResult(
        **{"rows": 4, "prompt_tokens": 30, "output_tokens": 38, "slots": 80, "padded_slots": 12, "steps": 10, **known},
        prefill_seconds=1.0,
        decode_seconds=2.0,
        seconds=3.5,
    )


def test_slots_of_new_tokens_are_all_rows_in_all_steps_unless_it_is_known_better():
    assert result().decode_slots == 40
    assert result(row_steps=0).decode_slots == 0
    assert result(row_steps=33).decode_slots == 33


def test_slots_of_the_cache_that_were_read_are_estimated_only_where_they_were_not_counted():
    assert result(slots_read=0).cache_slots == 0
    assert result(slots_read=77).cache_slots == 77
    assert result().cache_slots == 9 * (80 - 20), "nine steps of decoding, on the mean half of the new tokens wide"
    assert result(row_steps=20).cache_slots == 9 * (80 - 10)
    assert result(steps=1).cache_slots == 0 == result(steps=0).cache_slots


def record(**other: object) -> OutputRecord:
    known = {"index": 1, "id": "1", "prompt": "p", "text": "t", "prompt_tokens": 1, "output_tokens": 2}
    return OutputRecord(**{**known, "finish_reason": "stop", **other})


def test_records_have_the_same_digest_only_if_they_are_the_same_in_everything():
    digest = record_digest(record())
    assert digest == record_digest(record())
    assert len(bytes.fromhex(digest)) == 16
    others = [
        {"index": 2}, {"id": "2"}, {"prompt": "q"}, {"text": "u"}, {"prompt_tokens": 2}, {"output_tokens": 3},
        {"finish_reason": "length"}, {"error": "e"}, {"rank": 0}, {"batch": 1},
    ]  # fmt: skip
    assert len({digest, *(record_digest(record(**other)) for other in others)}) == 1 + len(others)


def test_a_prompt_is_its_text_or_its_messages():
    assert protocol.prompt_text(Prompt(index=0, id="0", text="Hi")) == "Hi"
    assert protocol.prompt_text(Prompt(index=0, id="0", text="not this", messages=[])) == ""


# --- sweeps ---


def sweep(over: int, settled: str | None) -> SweepState:
    trials = tuple(Trial(number=n, repeat=1, active_ranks=1, batch_size=n) for n in (1, 2, 3))
    return SweepState(
        plan=SweepPlan(batch_sizes=[1, 2, 3], ranks=[1]),
        trials=trials,
        records=tuple(TrialRecord(trial=trial, outcome="measured") for trial in trials[:over]),
        settled=settled,
    )


@pytest.mark.parametrize(
    ("over", "settled", "left", "early"),
    [(0, None, 3, False), (2, None, 1, False), (2, "asked to", 1, True), (3, "all are over", 0, False)],
)
def test_a_sweep_has_ended_early_if_trials_were_left_when_it_was_settled(over, settled, left, early):
    assert (sweep(over, settled).left, sweep(over, settled).ended_early) == (left, early)


@pytest.mark.parametrize(
    ("new", "warm"), [(1, 1), (3, 1), (4, 1), (8, 2), (40, 10), (63, 15), (64, 16), (68, 16), (4000, 16)]
)
def test_a_warm_up_has_a_quarter_of_the_steps_sixteen_at_most_and_one_at_least(new, warm):
    assert warm_up_tokens(new) == warm


@pytest.mark.parametrize(
    ("prompts", "on_gpu", "most", "found"),
    [
        (0, False, None, FirstBatch(1, 1)),
        (1, False, None, FirstBatch(1, 1)),
        (64, False, None, FirstBatch(64, 1)),
        (65, False, None, FirstBatch(33, 2)),
        (256, False, None, FirstBatch(64, 4)),
        (257, False, None, FirstBatch(64, None)),
        (256, True, None, FirstBatch(256, 1)),
        (1024, True, None, FirstBatch(256, 4)),
        (1025, True, None, FirstBatch(256, None)),
        (40, False, 10, FirstBatch(10, 4)),
        (41, False, 10, FirstBatch(10, None)),
        (3, True, 0, FirstBatch(1, 3)),
        (1000, False, 100, FirstBatch(64, None)),
    ],
)
def test_a_small_job_is_cut_into_even_rounds_and_a_large_one_begins_with_a_search(prompts, on_gpu, most, found):
    assert first_batch(prompts, on_gpu=on_gpu, most=most) == found


# --- lines ---


def test_a_number_that_json_has_not_is_written_as_null_even_beside_half_a_character():
    silent = protocol.RankSilent(rank=0, stage="loading", seconds=float("nan"))
    assert json.loads(encode(silent))["seconds"] is None
    failed = protocol.RunStarted(at=float("inf"), name="\udce9é", directory="d", config={}, prompts=1)
    assert json.loads(encode(failed)) | {"at": 0} == {
        "type": "run_started", "at": 0, "version": 2, "name": "?é", "directory": "d", "config": {}, "prompts": 1,
        "done": 0, "asked_at": 0.0,
    }  # fmt: skip
    assert json.loads(encode(failed))["at"] is None


def test_a_line_is_what_is_encoded_with_one_newline():
    line = encode_line(protocol.LogLine(source="supervisor", text="one\ntwo"))
    assert line == encode(protocol.LogLine(source="supervisor", text="one\ntwo")) + b"\n"
    assert line.count(b"\n") == 1


def test_what_both_ends_must_agree_on_stays_as_it_is():
    assert (protocol.PROTOCOL_VERSION, protocol.MAX_LINE_BYTES) == (2, 32 * 2**20)
    assert GREETINGS == "rankdeck greetings: "


# --- lines of outputs.jsonl ---


def test_a_record_that_another_writer_has_spaced_or_ordered_is_still_one():
    line = protocol.encode_line(record())
    assert protocol.whole_record(line) == record()
    assert protocol.whole_record(line.rstrip(b"\n") + b"\r\n") == record()
    assert protocol.whole_record(line.replace(b",", b", ")) == record()
    turned = json.dumps(dict(reversed(json.loads(line).items()))).encode()
    assert protocol.whole_record(turned) == record()
    older = json.dumps({name: value for name, value in json.loads(line).items() if name != "batch"}).encode()
    assert protocol.whole_record(older) == record()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (b',"zz":1,"new":2}', "a record has no `new`"),
        (b',"text":"of another"}', "a key appears twice"),
        (b',"text":{"text":1}}', "Expected `str`"),
        (b"}}", "trailing characters"),
    ],
)
def test_a_line_with_more_in_it_than_a_record_is_damaged(more, why):
    line = msgspec.json.encode(record())[:-1] + more
    with pytest.raises(ValueError, match=why):
        protocol.whole_record(line)


def test_a_line_that_is_no_utf8_is_damaged():
    line = msgspec.json.encode(record(text="XX")).replace(b"XX", b"\xff")
    with pytest.raises(ValueError, match=r"(?i)utf-8"):
        protocol.whole_record(line)
