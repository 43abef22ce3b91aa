"""A rank that hangs is told of, ended after the run's patience, and its batch done again."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.machine import kernel
from rankdeck.runner.machine.kernel import ProcessLook
from rankdeck.runner.state.silence import silence_words
from rankdeck.runner.supervisor import hung_ranks
from rankdeck.runner.supervisor.hung_ranks import HungRanks
from rankdeck.runner.supervisor.talk.patience import COLD_TIMES
from tests.runner.supervisor.in_process import Launch, outputs_of, result
from tests.runner.supervisor.test_outliving import expected
from tests.runner.supervisor.test_supervisor import PROMPTS, outputs, rank_pids, watch


class Watched:
    """A launch whose ranks are looked at once a second of the test's own clock; `looks` is what the kernel says."""

    def __init__(self, launch: Launch, monkeypatch, patience: float | None = None) -> None:
        self.launch, self.pool = launch, launch.pool
        self.looks: dict[int, ProcessLook] = {}
        self.parent: int | None = None
        self.ended: dict[int, str] = {}
        monkeypatch.setattr(hung_ranks, "look_at", lambda pid: self.looks.get(pid))
        self.hung = HungRanks(patience, lambda: self, launch.events)  # type: ignore[arg-type,return-value]

    def process_of(self, rank: int) -> int | None:
        return self.pool.pids.get(rank, self.parent)

    def give_up(self, rank: int, why: str) -> None:
        self.ended[rank] = why
        self.pool.give_up(rank, why)

    def seconds(self, count: int) -> list[str]:
        """What is logged in so many seconds."""
        before = len(self.launch.state.log)
        for _ in range(count):
            self.hung.look(1.0)
        return [entry.text for entry in self.launch.state.log[before:]]

    def processes(self, doing: str, cpu: float = 0.0) -> None:
        self.pool.pids.update({0: 100, 1: 101})
        self.looks = {pid: ProcessLook(doing, cpu) for pid in (100, 101)}


@pytest.fixture
def watched(tmp_path: Path, monkeypatch) -> Watched:
    return Watched(Launch(tmp_path), monkeypatch)


def first_batches(watched: Watched) -> None:
    """Both ranks have ended a batch, and have the next one in hand."""
    for rank in watched.launch.connect_ready():
        watched.launch.answer(rank, rank.peer.work[0])


def test_a_stopped_rank_is_told_of_and_ended_while_the_other_works(watched):
    first_batches(watched)
    zero = watched.pool.work.ranks[0]
    watched.processes("stopped")
    said = []
    for _ in range(60):
        said += watched.seconds(1)
        watched.pool.work.ranks[1].pulse.silent = 0.0
    assert said == [
        "rank 0: no step for 10 s, its process is stopped; in 50 s it is ended and its batch done again (--patience)"
    ]
    assert watched.ended == {0: "no step for 60 s, its process is stopped; it was ended"}
    assert zero.peer.hung_up
    assert not [line for line in watched.seconds(60) if "rank 0" in line], (
        "of a rank that is given up nothing more is said"
    )


def test_what_is_known_stands_in_the_state_until_the_rank_goes_on(watched):
    first_batches(watched)
    watched.processes("waiting in the kernel")
    watched.seconds(12)
    silence = watched.launch.state.ranks[1].silence
    assert (silence.seconds, silence.process, silence.patience) == (10.0, "waiting in the kernel", 60.0)
    one = watched.pool.work.ranks[1]
    watched.launch.say(one, *outputs_of(one.peer.work[1], 1)[:1])
    assert watched.seconds(1) == ["rank 1: working again after 12 s"]
    assert watched.seconds(1) == [], "once"
    assert watched.launch.state.ranks[1].silence is None
    assert watched.launch.state.ranks[0].silence is not None


def test_it_is_told_again_when_the_process_does_something_else(watched):
    first_batches(watched)
    watched.processes("running")
    assert len(watched.seconds(15)) == 2
    watched.processes("stopped")
    assert [line.split(";")[0] for line in watched.seconds(1)] == [
        f"rank {rank}: no step for 16 s, its process is stopped" for rank in (0, 1)
    ]


def test_where_no_process_can_be_seen_it_is_told_without(watched):
    first_batches(watched)
    assert watched.seconds(10)[0].startswith("rank 0: no step for 10 s; in 50 s")


def test_ranks_without_work_are_left_alone(watched):
    watched.launch.connect_ready()
    watched.launch.pool.stop()
    for rank in watched.pool.work.ranks.values():
        watched.launch.answer(rank, rank.peer.work[0])
    assert watched.pool.leaving
    assert (watched.seconds(5000), watched.ended) == ([], {})


def test_a_rank_that_loads_for_an_hour_is_waited_for_while_its_process_works_or_another_does(watched):
    watched.launch.connect()
    watched.processes("running")
    for second in range(3600):
        watched.looks[100] = ProcessLook("running", second * 0.5)
        watched.seconds(1)
    assert watched.ended == {}
    assert watched.launch.state.log == ()
    assert watched.seconds(60)[0].startswith(
        "rank 0: no progress in loading for 60 s, its process is running; in 1140 s"
    )
    watched.seconds(1200)
    assert watched.ended[0] == "no progress in loading for 1200 s, its process is running; it was ended"


def test_a_rank_that_waits_for_one_that_hangs_in_loading_is_not_blamed_with_it(watched):
    zero, _ = watched.launch.connect()
    watched.launch.say(zero, protocol.Arrived(rank=0, at="limits"))
    watched.processes("running")
    assert watched.seconds(60) == ["rank 1: no progress in loading for 60 s, its process is running; in 1140 s it is "
                                   "ended (--patience)"]  # fmt: skip
    watched.seconds(1200)
    assert list(watched.ended) == [1]


def test_a_rank_that_was_stopped_while_it_loads_is_not_waited_for_although_another_works(watched):
    watched.launch.connect()
    watched.processes("stopped")
    for second in range(1200):
        watched.looks[101] = ProcessLook("running", second * 0.5)
        watched.seconds(1)
    assert watched.ended == {0: "no progress in loading for 62 s, its process is stopped; it was ended"}


def test_a_rank_that_loads_is_waited_for_while_its_process_moves_bytes_without_a_word_or_a_core(watched):
    watched.launch.connect()
    watched.processes("waiting in the kernel")
    for second in range(3600):  # a download at 1 MB/s, or a slow file on a network
        watched.looks[100] = ProcessLook("running", second * 0.05, second * 10**6)
        watched.seconds(1)
    assert (watched.ended, watched.launch.state.log) == ({}, ())
    watched.seconds(1200)
    assert sorted(watched.ended) == [0, 1]


def test_a_first_batch_on_a_cpu_is_told_of_and_waited_for_while_its_process_computes(watched):
    watched.launch.connect_ready()
    watched.processes("running")
    for second in range(3600):
        watched.looks[100] = ProcessLook("running", second * 2.0)
        watched.seconds(1)
    assert list(watched.ended) == [1], "the other one did not compute"
    assert "rank 0: no step for 10 s, its process is running" in [line.text for line in watched.launch.state.log]
    watched.seconds(1190)
    assert list(watched.ended) == [1]
    watched.seconds(15)
    assert sorted(watched.ended) == [0, 1]


@pytest.mark.parametrize("why", ["a GPU's rank spins when it hangs", "its pace is known", "a patience was asked for"])
def test_where_a_rank_that_computes_may_hang_its_work_is_no_excuse(tmp_path: Path, monkeypatch, why):
    watched = Watched(Launch(tmp_path), monkeypatch, patience=5.0 if "asked" in why else None)
    zero, _ = watched.launch.connect_ready()
    zero.on_cpu = "GPU" not in why
    if "pace" in why:
        watched.launch.answer(zero, zero.peer.work[0])
    watched.processes("running")
    for second in range(1201):
        watched.looks[100] = ProcessLook("running", second * 2.0)
        watched.seconds(1)
    assert 0 in watched.ended


def test_a_stop_is_no_pace_of_a_rank_that_was_continued_before_its_next_word(watched):
    first_batches(watched)
    zero = watched.pool.work.ranks[0]
    watched.processes("stopped")
    watched.seconds(50)
    watched.processes("running")
    watched.seconds(1)
    watched.launch.say(zero, *outputs_of(zero.peer.work[1], 0)[:1])
    assert zero.pulse.usual() < 1


def test_ranks_to_come_are_given_up_with_their_parent_stopped_after_the_usual_patience(watched):
    watched.parent = 99
    watched.looks = {99: ProcessLook("running", 0.0)}
    watched.seconds(5)
    watched.looks = {99: ProcessLook("stopped", 0.0)}
    assert watched.seconds(15)[0].startswith(
        "rank 0: no progress in loading for 10 s, its process is stopped; in 55 s it is ended"
    )
    watched.seconds(45)
    assert sorted(watched.ended) == [0, 1]


def test_ranks_that_were_told_to_leave_are_not_looked_at(watched):
    first_batches(watched)
    watched.processes("stopped")
    watched.pool.abandon()
    assert (watched.seconds(5000), watched.ended) == ([], {})


def test_a_rank_that_loads_is_waited_for_while_another_is_heard_of(watched):
    zero, _ = watched.launch.connect()
    for _ in range(1500):
        watched.launch.say(zero, protocol.LogLine(source="rank 0", text="shard"))
        watched.seconds(2)
    assert watched.ended == {}
    assert {line.text for line in watched.launch.state.log} == {"shard"}


def test_what_a_process_did_before_its_rank_spoke_is_not_held_against_its_next_silence(watched):
    zero, _ = watched.launch.connect()
    watched.processes("running")
    watched.seconds(4)
    assert sorted(watched.hung._looks) == [0, 1]
    watched.launch.say(zero, protocol.LogLine(source="rank 0", text="shard"))
    watched.seconds(1)
    assert sorted(watched.hung._looks) == [1]


def test_a_rank_that_never_comes_is_ended_too(watched):
    watched.pool.let_in(watched.launch.peer(0))
    assert watched.seconds(62)[0].startswith("rank 1: no progress in loading for 60 s")
    watched.seconds(1200)
    assert 1 in watched.ended


def test_with_patience_0_a_hung_rank_is_told_of_and_never_ended(tmp_path: Path, monkeypatch):
    watched = Watched(Launch(tmp_path), monkeypatch, patience=0.0)
    first_batches(watched)
    watched.processes("stopped")
    assert watched.seconds(100_000) == [f"rank {rank}: no step for 10 s, its process is stopped" for rank in (0, 1)]
    assert watched.ended == {}


def test_a_rank_that_speaks_between_two_looks_is_not_ended_however_short_the_patience(tmp_path: Path, monkeypatch):
    watched = Watched(Launch(tmp_path), monkeypatch, patience=0.5)
    first_batches(watched)
    zero = watched.pool.work.ranks[0]
    for output in outputs_of(zero.peer.work[1], 0):
        watched.launch.say(zero, output)
        watched.seconds(1)
    assert list(watched.ended) == [1]


def test_a_paused_continuous_rank_does_not_hang(tmp_path: Path, monkeypatch):
    watched = Watched(Launch(tmp_path, prompts=200, engine="continuous"), monkeypatch)
    watched.launch.connect_ready("continuous")
    watched.launch.controls.obey(protocol.Pause())
    watched.pool.hand_out()
    watched.processes("running")
    assert (watched.seconds(5000), watched.ended) == ([], {})


@pytest.mark.parametrize("asked", [True, False])
def test_a_pause_of_a_continuous_rank_is_neither_silence_nor_pace_once_it_goes_on(tmp_path, monkeypatch, asked):
    watched = Watched(Launch(tmp_path, prompts=200, ranks=1, engine="continuous"), monkeypatch)
    (zero,) = watched.launch.connect_ready("continuous")
    controls, zero.pulse.pace_known = watched.launch.controls, True
    controls.obey(protocol.Pause()) if asked else controls.set_trouble("the disk is full")
    watched.pool.hand_out()
    watched.seconds(3600)
    controls.obey(protocol.Resume()) if asked else controls.set_trouble(None)
    watched.seconds(1)  # before it is told to go on
    watched.pool.hand_out()
    assert (watched.seconds(5), watched.ended) == ([], {})
    watched.launch.say(zero, *outputs_of(zero.peer.work[0], 0)[:1])
    assert zero.pulse.usual() == 50, "five seconds of silence, not an hour"


def test_the_pace_of_a_continuous_rank_is_known_from_its_first_account_on(tmp_path, monkeypatch):
    watched = Watched(Launch(tmp_path, prompts=200, ranks=1, engine="continuous"), monkeypatch)
    (zero,) = watched.launch.connect_ready("continuous")
    watched.launch.say(zero, *outputs_of(zero.peer.work[0], 0))
    watched.launch.say(zero, protocol.RankAccount(rank=0, result=result(len(zero.peer.work[0].prompts))))
    assert zero.in_hand is not None, "it has rows in flight"
    watched.seconds(59)
    assert watched.ended == {}
    watched.seconds(1)
    assert list(watched.ended) == [0]


async def test_a_rank_stopped_by_a_signal_costs_time_and_no_output(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")
    started = launch(PROMPTS, patience=1.0)
    stopped: list[int] = []

    async def stop(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch >= 4 and not stopped:
            stopped.append(rank_pids(started.directory)[0])
            os.kill(stopped[0], signal.SIGSTOP)

    state, seen = await watch(started, when=stop)
    assert started.process.wait(20) == 0
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    (lost,) = [message for message in seen if isinstance(message, protocol.RankLost)]
    assert "it was ended" in lost.cause
    assert (state.attempt, state.restarts_left) == (2, 2)
    assert not psutil.pid_exists(stopped[0]), "a stopped process is ended, too"


def test_the_kernel_says_what_a_process_does():
    look = kernel.look_at(os.getpid())
    assert look is not None
    assert (look.doing, look.cpu_seconds > 0) == ("running", True)
    child = psutil.Popen(["sleep", "100"])
    try:
        child.suspend()
        os.waitpid(child.pid, os.WUNTRACED)
        assert kernel.look_at(child.pid).doing == "stopped"
        assert kernel.descends_from(child.pid, os.getpid())
        assert not kernel.descends_from(os.getpid(), child.pid)
    finally:
        child.kill()
        child.wait()
    assert kernel.look_at(child.pid) is None
    assert not kernel.descends_from(child.pid, os.getpid())


def test_what_a_process_computes_in_the_kernel_counts_as_well():
    begin, buffer = os.times().system, bytearray(2**20)
    with open("/dev/zero", "rb", buffering=0) as zeros:
        while (used := os.times()).system - begin < 0.1:
            zeros.readinto(buffer)
    assert kernel.look_at(os.getpid()).cpu_seconds > used.user + used.system - 0.05


@pytest.mark.parametrize("moved", ["reads", "writes", "grows"])
def test_the_kernel_says_how_much_a_process_has_moved(tmp_path: Path, moved):
    before, size, held = kernel.look_at(os.getpid()), 64 * 2**20, b""
    if moved == "reads":
        with open("/dev/zero", "rb", buffering=0) as zeros:
            for _ in range(64):
                zeros.read(2**20)
    elif moved == "writes":
        with open(os.devnull, "wb", buffering=0) as nothing:
            for _ in range(64):
                nothing.write(bytes(2**20))
    else:
        held = b"x" * (2 * size)
    assert kernel.look_at(os.getpid()).moved_bytes - before.moved_bytes > size // 2
    del held


def test_a_silence_ended_by_an_answer_that_brings_new_work_is_its_pace(watched):
    zero, _ = watched.launch.connect_ready()
    watched.launch.say(zero, *outputs_of(zero.peer.work[0], 0))
    watched.seconds(40)
    watched.launch.answer(zero, zero.peer.work[0])
    assert zero.peer.work[1:], "it has its next batch"
    assert zero.pulse.usual() == 40 * COLD_TIMES


def test_silence_in_words():
    silence = protocol.RankSilent(rank=1, stage="at work", seconds=15.2, process="stopped", patience=60.0)
    assert silence_words(silence) == "no step for 15 s, its process is stopped"
    assert silence_words(silence, outlook=True, more=20.0) == (
        "no step for 35 s, its process is stopped; in 25 s it is ended and its batch done again (--patience)"
    )
    idle = protocol.RankSilent(rank=1, stage="waiting", seconds=15.2, process="stopped")
    assert silence_words(idle, outlook=True) == "its process is stopped"


async def test_ranks_are_looked_at_once_a_second_and_a_late_look_counts_as_two(watched, monkeypatch):
    times, naps, looked = iter([100.0, 101.0, 102.5, 112.5]), [], []
    monkeypatch.setattr(hung_ranks, "time", SimpleNamespace(monotonic=lambda: next(times)))
    monkeypatch.setattr(watched.hung, "look", looked.append)

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) > 3:
            raise InterruptedError

    monkeypatch.setattr(hung_ranks, "asyncio", SimpleNamespace(sleep=nap))
    with pytest.raises(InterruptedError):
        await watched.hung.watch()
    assert (naps, looked) == ([1.0] * 4, [1.0, 1.5, 2.0])


def test_of_another_launch_nothing_is_known_yet(watched):
    watched.seconds(50)
    watched.launch.launch_again()
    other = Other(watched.launch)
    watched.hung._current_launch = lambda: other  # type: ignore[assignment,return-value]
    assert watched.seconds(59) == []
    assert watched.seconds(1)[0].startswith("rank 0: no progress in loading for 60 s")
    watched.hung._current_launch = lambda: None
    assert watched.seconds(5000) == []
    assert other.ended == {}


class Other:
    """A launch that is not the first."""

    def __init__(self, launch: Launch) -> None:
        self.pool, self.ended = launch.pool, {}

    def process_of(self, rank: int) -> int | None:
        return None

    def give_up(self, rank: int, why: str) -> None:
        self.ended[rank] = why


def test_a_process_is_looked_at_only_after_three_seconds_of_silence(watched, monkeypatch):
    first_batches(watched)
    watched.processes("running")
    asked: list[int] = []
    monkeypatch.setattr(hung_ranks, "look_at", lambda pid: asked.append(pid))
    watched.seconds(2)
    assert asked == []
    watched.seconds(1)
    assert asked == [100, 101]


@pytest.mark.parametrize(
    ("cpu", "moved", "works"),
    [(0.1, 0, False), (0.11, 0, True), (0.0, 64 * 1024, False), (0.0, 64 * 1024 + 1, True), (0.0, 0, False)],
)
@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_a_tenth_of_a_core_or_64_kib_a_second_is_no_work_and_more_is(cpu, moved, works, seconds):
    before = ProcessLook("running", 0.0, 1000)
    now = ProcessLook("running", cpu * seconds, 1000 + int(moved * seconds))
    assert hung_ranks._has_worked(before, now, seconds) is works


@pytest.mark.parametrize(("asked", "patience"), [(0.5, 2.0), (2.0, 2.0), (3.0, 3.0), (0.0, 0.0), (None, None)])
def test_a_patience_is_two_looks_at_least(watched, asked, patience):
    assert HungRanks(asked, lambda: None, watched.launch.events)._asked == patience


def test_the_silence_that_is_told_has_all_that_is_known(watched):
    first_batches(watched)
    watched.processes("stopped")
    watched.hung.look(9.44)
    watched.seconds(1)
    silence = watched.launch.state.ranks[0].silence
    assert (silence.rank, silence.stage, silence.seconds) == (0, "at work", 10.4)
    assert (silence.process, silence.patience) == ("stopped", 60.0)
    assert watched.launch.state.ranks[1].silence.rank == 1
