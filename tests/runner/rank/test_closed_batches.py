"""What a rank hands to its engine with each order, and what it sends of what comes back."""

from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner import protocol
from rankdeck.runner.engine.continuous import ContinuousEngine
from rankdeck.runner.engine.rows import Cancelled, Progress
from rankdeck.runner.protocol import Leave, OutputRecord, Prompt, Work, record_digest
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.rank import work as work_module
from rankdeck.runner.rank.work import RankWork

RECORD = OutputRecord(
    index=5, id="e", prompt="p", text="t", prompt_tokens=1, output_tokens=2, finish_reason="stop"
)  # fmt: skip
RESULT = protocol.BatchResult(
    rows=1, prompt_tokens=1, output_tokens=2, slots=3, padded_slots=0, steps=2, prefill_seconds=1.0, decode_seconds=1.0,
    seconds=2.0,
)  # fmt: skip
PROMPTS = [Prompt(index=5, id="e", text="p")]


class Engine:
    """Gives one record and takes note of all it is asked for."""

    broken = False

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.devices = [self.device]
        self.notes = ["before the first batch"]
        self.threads: list[int] = []
        self.asked: list[dict] = []
        self.closed = 0
        self.raises: list[Exception | None] = []

    def take_notes(self):
        taken, self.notes = self.notes, []
        return taken

    def use_threads(self, count: int) -> None:
        self.threads.append(count)

    def generate(self, prompts, **options):
        self.asked.append({"prompts": prompts, **options})
        options["on_step"](Progress(step=3, output_tokens=4))
        options["on_records"]([RECORD])
        if options["cancelled"]():
            raise Cancelled
        if error := self.raises.pop(0) if self.raises else None:
            raise error
        self.notes = ["the cache was copied"]
        return SimpleNamespace(result=RESULT)

    def close(self) -> None:
        self.closed += 1


class Link:
    def __init__(self, *orders) -> None:
        self.orders = list(orders)
        self.sent: list = []
        self.steps: list = []
        self.sharing = self.limit = None
        self.cancelled_batches: set[int] = set()

    def next_order(self):
        return self.orders.pop(0)

    def next_order_now(self):
        return None

    def send(self, *messages) -> None:
        self.sent.extend(messages)

    def progress(self, steps) -> None:
        self.steps.append(steps)

    def cancelled(self, batch: int) -> bool:
        return batch in self.cancelled_batches


def worked(link: Link, engine=None, rank: int = 2, **settings) -> tuple[RankWork, bool]:
    made = RankWork(rank, RunConfig(prompts="p", **settings), engine or Engine(), link)
    return made, made.run()


def test_a_batch_is_generated_as_ordered_and_its_records_bear_its_number_and_the_ranks():
    link, engine = Link(Work(batch=8, prompts=PROMPTS), Leave()), Engine()
    _, gather = worked(link, engine)
    assert gather is False
    own = protocol.Output(record=OutputRecord(**{**record_fields(), "rank": 2, "batch": 8}))
    assert link.sent == [
        own,
        protocol.BatchFinished(rank=2, batch=8, result=RESULT),
        protocol.LogLine(source="rank 2", text="the cache was copied"),
    ]
    assert link.steps == [protocol.StepsInFlight(rank=2, batch=8, step=3, output_tokens=4)]
    (asked,) = engine.asked
    assert (asked["prompts"], asked["measure"], asked["max_new_tokens"]) == (PROMPTS, False, None)
    assert engine.closed == 1


def record_fields() -> dict:
    return {name: getattr(RECORD, name) for name in OutputRecord.__struct_fields__}


def test_rank_0_says_what_its_engine_knew_before_the_first_batch():
    link = Link(Work(batch=1, prompts=PROMPTS), Leave())
    worked(link, rank=0)
    assert link.sent[0] == protocol.LogLine(source="rank 0", text="before the first batch")


def test_a_batch_of_a_sweep_is_measured_cut_short_and_its_records_are_not_kept():
    order = Work(batch=8, prompts=PROMPTS, measure=True, keep=False, max_new_tokens=16)
    link, engine = Link(order, Leave()), Engine()
    made, _ = worked(link, engine, dispatch="split")
    assert [type(message) for message in link.sent] == [protocol.BatchFinished, protocol.LogLine]
    assert (engine.asked[0]["measure"], engine.asked[0]["max_new_tokens"]) == (True, 16)
    assert made.digests == []


@pytest.mark.parametrize(("dispatch", "kept"), [("split", True), ("pull", False)])
def test_the_digests_of_what_was_sent_are_kept_only_for_ranks_that_gather(dispatch, kept):
    link = Link(Work(batch=8, prompts=PROMPTS), Leave(gather=True))
    made, gather = worked(link, dispatch=dispatch)
    sent = link.sent[0].record
    assert made.digests == ([(5, record_digest(sent))] if kept else [])
    assert gather is True


def test_a_cancelled_batch_is_not_reported_and_the_next_one_is_done():
    link = Link(Work(batch=8, prompts=PROMPTS), Work(batch=9, prompts=PROMPTS), Leave())
    link.cancelled_batches = {8}
    worked(link)
    assert [message.batch for message in link.sent if isinstance(message, protocol.BatchFinished)] == [9]
    assert not any(isinstance(message, protocol.BatchFailed) for message in link.sent)


@pytest.mark.parametrize(
    ("cores", "sharing", "device", "threads"),
    [
        ("8", 3, "cpu", 2),
        ("8", 8, "cpu", 1),
        ("2", 4, "cpu", 1),
        ("8", None, "cpu", None),
        ("", 2, "cpu", None),
        (None, 2, "cpu", None),
        ("8", 2, "meta", None),
    ],
)
def test_on_a_cpu_a_rank_uses_its_present_share_of_the_cores_from_the_first_step_on(
    monkeypatch, cores, sharing, device, threads
):
    monkeypatch.delenv("RANKDECK_CORES", raising=False)
    if cores is not None:
        monkeypatch.setenv("RANKDECK_CORES", cores)
    link, engine = Link(Work(batch=1, prompts=PROMPTS), Leave()), Engine(device)
    link.sharing = sharing
    worked(link, engine)
    assert engine.threads == ([] if threads is None else [threads] * 2), "before the prefill, and at a step"


def test_after_a_failure_orders_of_the_same_stream_are_dropped_and_those_of_another_are_done():
    orders = [Work(batch=batch, prompts=PROMPTS, stream=stream) for batch, stream in ((1, 1), (2, 1), (3, 3))]
    link, engine = Link(*orders, Leave()), Engine()
    engine.raises = [ValueError("bad")]
    worked(link, engine)
    assert [message for message in link.sent if isinstance(message, protocol.BatchFailed)] == [
        protocol.BatchFailed(rank=2, batch=1, kind="error", error="ValueError: bad")
    ]
    assert [message.batch for message in link.sent if isinstance(message, protocol.BatchFinished)] == [3]


def test_a_failed_order_is_reported_under_its_streams_number():
    link, engine = Link(Work(batch=7, prompts=PROMPTS, stream=4), Leave()), Engine()
    engine.raises = [ValueError("bad")]
    worked(link, engine)
    assert [message.batch for message in link.sent if isinstance(message, protocol.BatchFailed)] == [4]


def test_batches_that_belong_to_no_stream_are_done_after_one_of_them_failed():
    link, engine = Link(*(Work(batch=batch, prompts=PROMPTS) for batch in (1, 2)), Leave()), Engine()
    engine.raises = [ValueError("bad")]
    worked(link, engine)
    assert [message.batch for message in link.sent if isinstance(message, protocol.BatchFinished)] == [2]


@pytest.mark.parametrize(
    ("order", "closed"),
    [
        ({}, False),
        ({"measure": True}, True),
        ({"keep": False}, True),
        ({"max_new_tokens": 3}, True),
    ],
)
def test_a_continuous_engine_takes_rows_as_they_come_unless_the_batch_is_a_trials(monkeypatch, order, closed):
    made, leave = [], Leave(gather=True)

    def continuous(*given, **more):
        made.append((given, more))
        return SimpleNamespace(run=lambda order: leave)

    monkeypatch.setattr(work_module, "ContinuousRank", continuous)
    engine = ContinuousEngine.__new__(ContinuousEngine)
    plain = Engine()
    for name in ("take_notes", "generate", "close", "use_threads"):
        monkeypatch.setattr(
            ContinuousEngine, name, lambda self, *given, name=name, **more: getattr(plain, name)(*given, **more)
        )
    engine.device, engine.devices = plain.device, plain.devices
    link = Link(Work(batch=1, prompts=PROMPTS, **order), Leave())
    _, gather = worked(link, engine, max_new_tokens=77)
    assert len(plain.asked) == closed
    assert link.orders == ([] if closed else [Leave()]), "after an order to leave it asks for no other"
    assert gather is not closed, "the order to leave that came while rows were in hand"
    if not closed:
        (((rank, its_engine, its_link), more),) = made
        assert (rank, its_engine, its_link, more["longest"]) == (2, engine, link, 77)
        more["send_records"](6, [RECORD])
        assert (link.sent[-1].record.rank, link.sent[-1].record.batch) == (2, 6)
        assert more["may_go_on"](6)
        link.cancelled_batches = {6}
        assert not more["may_go_on"](6)
    assert plain.closed == 1


def test_a_continuous_rank_accounts_after_as_many_steps_as_an_answer_of_this_run_may_take(monkeypatch):
    longest = []

    def continuous(*_, **more):
        longest.append(more["longest"])
        return SimpleNamespace(run=lambda order: Leave())

    monkeypatch.setattr(work_module, "ContinuousRank", continuous)
    engine = ContinuousEngine.__new__(ContinuousEngine)
    for name, answer in (("take_notes", []), ("close", None)):
        monkeypatch.setattr(ContinuousEngine, name, lambda self, answer=answer: answer)
    plan = SweepPlan(batch_sizes=[1], ranks=[1], trial_tokens=5)
    worked(Link(Work(batch=1, prompts=PROMPTS)), engine, max_new_tokens=77, sweep=plan)
    assert longest == [5]
