"""One launch of ranks without processes: what its parent is told, when it is over, and what a lost rank died of."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.launching import last_words
from rankdeck.runner.launching.parent import RankParent
from rankdeck.runner.machine import kernel, processes, telemetry
from rankdeck.runner.machine.kernel import ProcessLook
from rankdeck.runner.protocol import StartRank
from rankdeck.runner.protocol.engines import EngineHint
from rankdeck.runner.supervisor import launch as launch_module
from rankdeck.runner.supervisor.launch import Loss, RankLaunch
from tests.runner.supervisor.in_process import Launch, ready


class StandInParent(RankParent):
    """A parent without processes, which keeps what it is told; it is gone once `leaves` is set."""

    def __init__(self, *, there: bool = False) -> None:
        super().__init__(lambda line: None)
        self.there = there
        self.ordered: list[StartRank] = []
        self.started: list[tuple[list[str], dict[str, str]]] = []
        self.ended: list[str] = []
        self.leaves = asyncio.Event()

    @property
    def lives(self) -> bool:
        return self.there

    async def start(self, command, environment) -> None:
        self.started.append((list(command), dict(environment)))
        self.there = True

    def order(self, *orders: StartRank) -> None:
        self.ordered += orders

    async def gone(self) -> None:
        await self.leaves.wait()

    async def why_gone(self) -> str:
        return "accelerate launch ended with status 7"

    async def end(self) -> None:
        self.ended.append("all")

    async def end_ranks(self) -> None:
        self.ended.append("ranks")


class One:
    """One launch over a directory."""

    def __init__(self, directory: Path, *, there: bool = False, ready_before: bool = False, **settings) -> None:
        self.run = Launch(directory, **{"device": "cpu", **settings})
        self.parent = StandInParent(there=there)
        self.launch = RankLaunch(
            self.run.pool,
            directory,
            self.run.config,
            "the/model",
            lambda config, module, arguments: ["accelerate", str(config), module, *arguments],
            self.parent,
            self.run.events,
            ready_before=ready_before,
        )

    def said(self) -> list[tuple[str, str]]:
        return [(line.source, line.text) for line in self.run.state.log]

    def exits(self, rank: int, status: int, error: str | None = None) -> None:
        self.launch._hear(protocol.RankExited(rank=rank, attempt=self.run.attempt, status=status, error=error))

    async def loss(self) -> Loss | None:
        async with asyncio.timeout(20):
            return await self.launch.over()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    for name in ("CONNECT_SECONDS", "LAST_WORDS_SECONDS"):
        monkeypatch.setattr(launch_module, name, 0.0)


@pytest.fixture
def state_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))


# --- what is started ------------------------------------------------------------------------------


async def test_a_parent_is_started_for_the_model_and_the_socket_of_the_run_and_told_to_fork_every_rank(
    tmp_path, monkeypatch
):
    asked: list[tuple] = []
    monkeypatch.setattr(processes, "usable_cores", lambda: 12)
    monkeypatch.setattr(processes, "under_wsl", lambda: False)

    def environment(base, ranks, on_cpu, cores, *, expandable_segments, engine):
        asked.append((base is os.environ, ranks, on_cpu, cores, expandable_segments, engine))
        return {"OWN": "1"}

    monkeypatch.setattr(launch_module, "rank_environment", environment)
    one = One(tmp_path)
    await one.launch.start()
    ((command, given),) = one.parent.started
    socket = run_directory.socket_path(tmp_path)
    assert command == [
        "accelerate", str(tmp_path / "accelerate.yaml"), "rankdeck.runner.rank.parent",
        "--run-dir", str(tmp_path), "--socket", str(socket), "--model", "the/model",
    ]  # fmt: skip
    assert (tmp_path / "accelerate.yaml").exists()
    assert given == {"OWN": "1"}
    assert asked == [(True, 2, True, 12, True, "auto")]
    assert one.parent.ordered == [StartRank(rank=rank, world_size=2, attempt=1, environment={}) for rank in (0, 1)]
    assert one.said() == [("supervisor", "starting " + " ".join(command))]


@pytest.mark.parametrize(("device", "on_cpu"), [("cpu", True), ("auto", False), ("cuda", False)])
async def test_only_a_run_that_was_asked_to_be_on_a_cpu_is_launched_for_one(tmp_path, monkeypatch, device, on_cpu):
    asked: list[bool] = []
    monkeypatch.setattr(telemetry, "rank_variables", lambda environment: {})
    monkeypatch.setattr(
        launch_module, "rank_environment", lambda _, ranks, on_cpu, *__, **___: asked.append(on_cpu) or {}
    )
    monkeypatch.setattr(launch_module.accelerate, "write_accelerate_config", lambda path, on_cpu: asked.append(on_cpu))
    await One(tmp_path, device=device).launch.start()
    assert asked == [on_cpu, on_cpu]


async def test_where_memory_segments_cannot_grow_ranks_are_not_told_to_use_them(tmp_path, monkeypatch):
    asked: list[bool] = []
    monkeypatch.setattr(processes, "under_wsl", lambda: True)
    monkeypatch.setattr(
        launch_module,
        "rank_environment",
        lambda *_, expandable_segments, engine: asked.append(expandable_segments) or {},
    )
    await One(tmp_path).launch.start()
    assert asked == [False]


@pytest.mark.parametrize(
    ("settings", "hint", "told"),
    [
        ({"engine": "vllm"}, None, True),
        ({"engine": "auto"}, EngineHint(engine="vllm", why="faster"), True),
        ({"engine": "auto"}, EngineHint(engine="continuous", why="faster"), False),
        ({"engine": "auto"}, EngineHint(), False),
        ({"engine": "static"}, EngineHint(engine="vllm"), False),
    ],
)
async def test_the_parent_of_ranks_of_vllm_is_told_so_with_the_environment_that_it_wants(
    tmp_path, monkeypatch, settings, hint, told
):
    asked: list[bool] = []
    monkeypatch.setattr(
        launch_module, "rank_environment", lambda *_, engine, **__: asked.append(engine == "vllm") or {}
    )
    one = One(tmp_path, **settings)
    one.launch._engine_hint = hint
    await one.launch.start()
    ((command, _),) = one.parent.started
    assert (command[-2:] == ["--engine", "vllm"]) is told
    assert asked == [told]
    assert {order.engine_hint for order in one.parent.ordered} == {hint}


async def test_a_parent_that_is_there_is_not_started_again_and_forks_the_ranks_of_this_launch(tmp_path):
    one = One(tmp_path, there=True)
    one.run.launch_again()
    one.launch = RankLaunch(one.run.pool, tmp_path, one.run.config, "m", lambda *_: [], one.parent, one.run.events)
    await one.launch.start()
    assert one.parent.started == []
    assert [order.attempt for order in one.parent.ordered] == [2, 2]
    assert one.parent.hear == one.launch._hear


@pytest.mark.parametrize(("doing", "starts"), [("running", 0), ("waiting in the kernel", 0), ("stopped", 1), (None, 0)])
async def test_only_a_parent_that_is_stopped_is_replaced(tmp_path, monkeypatch, doing, starts):
    one = One(tmp_path, there=True)
    one.parent.pid = 77
    looked: list[int] = []
    monkeypatch.setattr(
        kernel, "look_at", lambda pid: looked.append(pid) or (ProcessLook(doing, 0.0) if doing else None)
    )
    await one.launch.start()
    assert (len(one.parent.started), looked) == (starts, [77])
    said = ("supervisor", "the ranks' parent is stopped: another takes its place")
    assert (said in one.said()) is bool(starts)


@pytest.mark.parametrize(("dispatch", "ranks", "meets"), [("split", 2, True), ("split", 1, False), ("pull", 2, False)])
async def test_only_ranks_that_gather_meet_over_a_file_which_is_not_that_of_an_earlier_run(
    tmp_path, state_home, dispatch, ranks, meets
):
    one = One(tmp_path, there=True, dispatch=dispatch, ranks=ranks)
    store = run_directory.socket_path(tmp_path).with_suffix(".1.store")
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text("left by a run that was killed")
    await one.launch.start()
    assert {order.store for order in one.parent.ordered} == {str(store) if meets else None}
    assert store.exists() is not meets
    store.touch()
    await one.launch.end()
    assert not store.exists()


@pytest.mark.parametrize(("device", "told"), [("cpu", {}), ("auto", {"GPUS": "2"}), ("cuda", {"GPUS": "2"})])
async def test_ranks_on_gpus_are_told_what_was_counted_for_this_launch(tmp_path, monkeypatch, device, told):
    monkeypatch.setattr(telemetry, "rank_variables", lambda environment: {"GPUS": "2"})
    one = One(tmp_path, there=True, device=device)
    await one.launch.start()
    assert [order.environment for order in one.parent.ordered] == [told, told]


# --- what the parent says -------------------------------------------------------------------------


async def test_while_the_parent_imports_every_rank_does(tmp_path):
    one = One(tmp_path)
    one.launch._hear(protocol.ParentImporting(pid=5))
    assert [rank.phase for rank in one.run.state.ranks] == ["importing", "importing"]


async def test_a_second_word_about_the_end_of_a_rank_changes_nothing(tmp_path):
    one = One(tmp_path)
    one.exits(1, 3)
    one.exits(1, 0)
    assert one.launch._exits[1].result().status == 3


# --- when it is over ------------------------------------------------------------------------------


async def test_it_is_over_once_every_rank_that_was_told_to_leave_has_ended(tmp_path):
    one = One(tmp_path)
    one.run.connect()
    over = asyncio.create_task(one.loss())
    one.run.pool.told_to_leave.set()
    one.exits(0, 0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not over.done()
    one.exits(1, 0)
    assert await over is None


async def test_a_rank_that_ends_before_it_was_told_to_is_lost_even_with_status_0(tmp_path):
    one = One(tmp_path)
    one.run.connect()
    one.exits(1, 0)
    loss = await one.loss()
    assert (loss.rank, loss.cause, loss.hopeless) == (1, "ended without a word", False)


async def test_ranks_that_do_not_leave_in_time_are_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(launch_module, "LEAVE_SECONDS", 0.0)
    one = One(tmp_path)
    one.run.connect()
    one.run.pool.told_to_leave.set()
    assert await one.loss() is None
    assert one.said()[-1] == ("supervisor", "some ranks did not leave within 0 s")


async def test_the_first_rank_that_is_lost_is_the_one(tmp_path):
    one = One(tmp_path)
    one.launch._lost(1)
    one.launch._lost(0)
    assert (await one.loss()).rank == 1


@pytest.mark.parametrize("was_ready", [True, False])
async def test_a_parent_that_is_gone_before_all_ranks_are_there_ends_the_launch_and_hope_if_none_was_ready(
    tmp_path, was_ready
):
    one = One(tmp_path)
    one.run.pool.ready = was_ready
    one.parent.leaves.set()
    loss = await one.loss()
    assert loss == Loss(None, "accelerate launch ended with status 7", hopeless=not was_ready)
    assert str(loss) == "accelerate launch ended with status 7"


async def test_ranks_that_are_there_go_on_without_their_parent_and_are_watched_by_their_pids(tmp_path, monkeypatch):
    ended: dict[int, asyncio.Event] = {100: asyncio.Event(), 101: asyncio.Event()}

    async def exit_status_of(pid):
        await ended[pid].wait()
        return -signal.SIGABRT

    monkeypatch.setattr(launch_module, "exit_status_of", exit_status_of)
    one = One(tmp_path)
    one.run.connect()
    for rank in (0, 1):
        one.launch._hear(protocol.RankForked(rank=rank, attempt=1, pid=100 + rank))
    over = asyncio.create_task(one.loss())
    one.parent.leaves.set()
    async with asyncio.timeout(10):
        while ("launcher", "the ranks' parent is gone; the ranks go on") not in one.said():
            await asyncio.sleep(0)
    assert not over.done()
    ended[101].set()
    loss = await over
    assert (loss.rank, loss.cause) == (1, "killed by SIGABRT")


async def test_waiting_for_ranks_to_leave_ends_when_they_have_or_when_the_time_is_over(tmp_path):
    one = One(tmp_path)
    await one.launch.wait(0.0)
    one.launch._all_left.set()
    async with asyncio.timeout(10):
        await one.launch.wait(1000.0)


# --- what a rank died of --------------------------------------------------------------------------


def log(one: One, directory: Path, rank: int, text: str) -> None:
    (directory / f"rank-{rank}.log").write_text(text)


async def test_what_it_was_given_up_for_comes_before_all_else(tmp_path):
    one = One(tmp_path)
    one.run.pool.errors[0] = "said"
    one.launch.give_up(0, "it hangs")
    assert await one.loss() == Loss(0, "it hangs", hopeless=False)


@pytest.mark.parametrize("was_ready", [True, False])
async def test_then_what_it_said_which_would_be_so_again_if_no_launch_was_ready(tmp_path, was_ready):
    one = One(tmp_path)
    one.run.pool.ready = was_ready
    one.run.pool.errors[1] = "OSError: weights.bin is damaged"
    one.exits(1, -signal.SIGKILL)
    loss = await one.loss()
    assert loss == Loss(1, "OSError: weights.bin is damaged", hopeless=not was_ready)
    assert str(loss) == "rank 1: OSError: weights.bin is damaged"


async def test_then_why_there_was_no_process(tmp_path):
    one = One(tmp_path)
    one.exits(0, 1, error="no more processes")
    assert await one.loss() == Loss(0, "no more processes", hopeless=False)


@pytest.mark.parametrize(
    ("was_ready", "before", "kills", "hopeless"),
    [
        (False, False, (6, 7), True),
        (False, False, (6, 6), False),
        (False, False, (None, None), True),
        (True, False, (6, 7), False),
        (False, True, (6, 7), False),
    ],
    ids=["memory ran out", "somebody did", "nobody knows", "was ready", "an earlier launch was ready"],
)
async def test_a_kill_while_loading_is_memory_if_the_kernel_has_killed_and_there_was_never_room(
    tmp_path, monkeypatch, was_ready, before, kills, hopeless
):
    one = One(tmp_path, ready_before=before)
    counts = iter(kills)
    monkeypatch.setattr(kernel, "out_of_memory_kills", lambda: next(counts))
    monkeypatch.setattr(one.launch, "_start_parent", nothing)
    monkeypatch.setattr(one.launch._parent, "order", lambda *orders: None)
    await one.launch.start()
    one.run.pool.ready = was_ready
    one.exits(0, -signal.SIGKILL)
    cause = last_words.out_of_memory_while_loading(2) if hopeless else last_words.KILLED
    assert await one.loss() == Loss(0, cause, hopeless)


async def nothing() -> None:
    pass


async def test_other_signals_while_loading_are_no_lack_of_memory(tmp_path):
    one = One(tmp_path)
    one.exits(0, -signal.SIGSEGV)
    assert await one.loss() == Loss(0, "killed by SIGSEGV", hopeless=False)


async def test_then_the_last_words_in_its_own_log_which_are_logged_as_well(tmp_path):
    one = One(tmp_path)
    log(one, tmp_path, 0, "not this one\n")
    log(one, tmp_path, 1, "Traceback (most recent call last):\nValueError: the last words")
    one.exits(1, 1)
    assert await one.loss() == Loss(1, "ValueError: the last words", hopeless=False)
    assert ("rank 1", "ValueError: the last words") in one.said()
    assert ("rank 0", "not this one") in one.said()


async def test_an_end_that_nobody_tells_of_is_not_waited_for_for_ever(tmp_path):
    one = One(tmp_path)
    one.launch._lost(0)
    assert await one.loss() == Loss(0, "ended without a word", hopeless=False)


async def test_what_ranks_have_written_is_logged_line_by_line_and_the_rest_at_the_end(tmp_path):
    one = One(tmp_path)
    log(one, tmp_path, 1, "a line\nhalf a li")
    one.launch.look_at_logs()
    assert one.said() == [("rank 1", "a line")]
    one.launch.look_at_logs()
    assert len(one.said()) == 1
    await one.launch.end()
    assert one.said()[1:] == [("rank 1", "half a li")]


# --- who is let in --------------------------------------------------------------------------------


class Peer:
    def __init__(self, rank: int) -> None:
        self.hello = protocol.RankHello(rank=rank, world_size=2, attempt=1)
        self.pid = None

    async def messages(self):
        if self.hello.rank == 0:
            yield ready(0)


async def test_a_rank_that_hangs_up_is_lost_unless_it_was_told_to_leave(tmp_path):
    one = One(tmp_path)
    await one.launch.serve(Peer(0))  # type: ignore[arg-type]
    assert one.launch._first_lost.result() == 0
    (tmp_path / "again").mkdir()
    again = One(tmp_path / "again")
    again.run.pool.told_to_leave.set()
    await again.launch.serve(Peer(1))  # type: ignore[arg-type]
    assert not again.launch._first_lost.done()
    assert again.launch._all_left.is_set(), "nobody else is connected"
