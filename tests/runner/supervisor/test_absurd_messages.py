"""10^5 messages of the right shape with values that cannot be: the run is as it was, and ends as it would have."""

import random
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import Command, FromRank, StepsInFlight
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.protocol.framing import encode_line
from rankdeck.runner.supervisor.door import listening
from rankdeck.runner.supervisor.door.peers import NoMessageError
from rankdeck.runner.supervisor.talk.claims import NonsenseError
from tests.runner.supervisor import absurd
from tests.runner.supervisor.in_process import Launch, outputs_of, ready, result

EACH = 12_000
"""Messages at one moment of a run; there are eight of them."""


@pytest.fixture(scope="module")
def absurdities() -> list[FromRank]:
    """What no rank can truly say. Words alone are true by being said: logs, why a rank gives up, where it waits."""
    luck = random.Random(1)
    words = protocol.RankFailed | protocol.LogLine | protocol.RankPhase | protocol.Arrived
    return [made for _ in range(EACH * 2) if not isinstance(made := absurd.message(FromRank, luck), words)][:EACH]


def figures(launch: Launch):
    """Everything of a run that a message may change, but for its log."""
    state = msgspec.structs.replace(launch.state, log=(), now=0.0)
    return state, dict(launch.scheduler.in_flight), launch.scheduler.unsettled, launch.scheduler.pending


def throw(launch: Launch, absurdities: list[FromRank]) -> None:
    """Have the ranks say absurd things in turn; nothing comes of any."""
    assert len(absurdities) == EACH
    before = figures(launch)
    ranks = list(launch.pool.work.ranks.values())
    for number, said in enumerate(absurdities):
        try:
            launch.say(ranks[number % len(ranks)], said)
        except NonsenseError:
            continue
        pytest.fail(f"was believed: {said!r:.500}")
    assert figures(launch) == before


@pytest.mark.parametrize("dispatch", ["pull", "split"])
def test_absurd_messages_of_ranks_leave_the_run_as_it_was(tmp_path: Path, absurdities, dispatch):
    launch = Launch(tmp_path, prompts=60, dispatch=dispatch)
    ranks = launch.connect()
    throw(launch, absurdities)
    for rank, (start, stop) in zip(ranks, [(0, 30), (30, 60)], strict=True):
        if dispatch == "split":
            launch.say(rank, protocol.Share(rank=rank.number, start=start, stop=stop))
        launch.say(rank, ready(rank.number))
    throw(launch, absurdities)
    launch.say(ranks[0], *outputs_of(ranks[0].peer.work[0], 0)[:2])
    throw(launch, absurdities)
    launch.say(ranks[0], outputs_of(ranks[0].peer.work[0], 0)[2])
    launch.say(ranks[0], protocol.BatchFinished(rank=0, batch=ranks[0].peer.work[0].batch, result=result(3)))
    launch.answer_all()
    assert [record.index for record in launch.records()] == list(range(60))
    assert (launch.state.completed, launch.state.failed, launch.state.output_tokens) == (60, 0, 240)


def test_absurd_messages_of_continuous_ranks_leave_the_run_as_it_was(tmp_path: Path, absurdities):
    launch = Launch(tmp_path, prompts=60, engine="continuous")
    ranks = launch.connect_ready("continuous")
    throw(launch, absurdities)
    launch.say(ranks[0], *outputs_of(ranks[0].peer.work[0], 0)[:1])
    throw(launch, absurdities)
    assert launch.state.completed == 1


def test_one_absurd_number_in_an_otherwise_true_message_makes_it_nonsense(tmp_path: Path):
    launch = Launch(tmp_path, prompts=60)
    zero, one = launch.connect()
    for good in (ready(0), protocol.RankPhase(rank=0, phase="loading")):
        nonsense(launch, zero, good)
    launch.say(zero, ready(0))
    launch.say(one, ready(1))
    (work,) = zero.peer.work
    outputs = outputs_of(work, 0)
    steps = StepsInFlight(rank=0, batch=work.batch, step=2, output_tokens=6, rows=3, cache_used=0.5)
    nonsense(launch, zero, protocol.Steps(steps=steps))
    failed = protocol.BatchFailed(rank=0, batch=work.batch, kind="error", error="e")
    nonsense(launch, zero, failed)
    for output in outputs:
        # A record's rank is not believed: the connection says whose it is.
        nonsense(launch, zero, output, but=("rank",))
    launch.say(zero, *outputs)
    nonsense(launch, zero, protocol.BatchFinished(rank=0, batch=work.batch, result=result(3)))
    launch.say(zero, protocol.BatchFinished(rank=0, batch=work.batch, result=result(3)))
    launch.answer_all()
    assert launch.state.completed == 60


def nonsense(launch: Launch, rank, good, *, but: tuple[str, ...] = ()) -> None:
    before, tried = figures(launch), 0
    for changed in absurd.mutations(good):
        if but and all(
            getattr(getattr(changed, "record", None), name, None) != getattr(good.record, name) for name in but
        ):
            continue
        with pytest.raises(NonsenseError):
            launch.say(rank, changed)
        tried += 1
    assert tried >= 7
    assert figures(launch) == before


def test_absurd_greetings_of_ranks_are_refused(tmp_path: Path):
    launch = Launch(tmp_path)
    launch.connect()
    luck = random.Random(5)
    for _ in range(10_000):
        hello = absurd.of_type(msgspec.inspect.type_info(protocol.RankHello), luck)
        right = {"rank": 0, "world_size": 2, "attempt": 1}
        kept = {name: value for name, value in right.items() if luck.random() < 0.6}
        assert launch.pool.why_refused(msgspec.structs.replace(hello, **kept)) is not None
    assert sorted(launch.pool.work.ranks) == [0, 1]


def test_absurd_commands_of_viewers_drop_the_viewer_or_are_brought_into_range(tmp_path: Path):
    launch = Launch(tmp_path)
    launch.connect_ready()
    luck = random.Random(6)
    obeyed = 0
    for _ in range(15_000):
        line = encode_line(absurd.message(Command, luck))
        try:
            command = listening.command_of(line)
        except NoMessageError:
            continue
        if not isinstance(command, protocol.Stop):
            launch.controls.obey(command)
            obeyed += 1
        assert 1 <= launch.scheduler.batch_size <= MAX_BATCH_SIZE
        assert 1 <= launch.scheduler.active_ranks <= 2
    assert obeyed > 100
    assert not launch.controls.sweeping


@pytest.mark.parametrize(
    "plan",
    [
        {"least_rounds": 10**9},
        {"least_seconds": 1e300},
        {"repeats": 2**50},
        {"batch_sizes": list(range(1, 5000))},
        {"batch_sizes": [65536], "least_rounds": 1000},
        {"batch_sizes": []},
        {"ranks": [3]},
        {"ranks": [-1]},
    ],
)
def test_a_sweep_that_would_fill_memory_or_never_end_is_not_started(tmp_path: Path, plan):
    launch = Launch(tmp_path)
    launch.connect_ready()
    values = {"batch_sizes": [1, 2], "ranks": [1], **plan}
    launch.controls.obey(protocol.StartSweep(plan=protocol.sweep_plan.SweepPlan(**values)))
    assert not launch.controls.sweeping
    assert "no sweep is started" in launch.state.log[-1].text
