"""One launch of the ranks, from the order to start them until the last of them is gone.

Knows what the ranks are told as they start, where they log to, and how to find out why one was lost. Does not decide
what follows.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.launching import accelerate, last_words
from rankdeck.runner.launching.accelerate import LaunchCommand
from rankdeck.runner.launching.environment import rank_environment
from rankdeck.runner.launching.log_tail import LogTail
from rankdeck.runner.launching.parent import RankParent
from rankdeck.runner.launching.process_tree import exit_status_of
from rankdeck.runner.launching.scratch import scratch_of
from rankdeck.runner.machine import kernel, processes, telemetry
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.engines import EngineHint
from rankdeck.runner.supervisor.door.peers import RankPeer
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.ranks import RankPool

LAST_WORDS_SECONDS = 5.0
LEAVE_SECONDS = 60.0
CONNECT_SECONDS = 1.0
LOOK_SECONDS = 0.05
REFUSE_SECONDS = 0.5
MOST_TURNED_AWAY = 32
"""Ranks that are refused wait that long, so many at a time: each takes a descriptor meanwhile."""


@dataclass(frozen=True)
class Loss:
    """Ranks were lost, `rank` first; None where that is not known.

    `hopeless` means that another launch would fail the same way.
    """

    rank: int | None
    cause: str
    hopeless: bool

    def __str__(self) -> str:
        return self.cause if self.rank is None else f"rank {self.rank}: {self.cause}"


class RankLaunch:
    """One launch of a run's ranks, which `parent` forks, and which then talk to `pool`.

    `ready_before`: all ranks of an earlier launch were ready once, so there is room for them. `engine_hint` is what
    `--engine auto` takes.
    """

    def __init__(
        self,
        pool: RankPool,
        directory: Path,
        config: RunConfig,
        model: str,
        launch_command: LaunchCommand,
        parent: RankParent,
        events: EventStream,
        *,
        ready_before: bool = False,
        engine_hint: EngineHint | None = None,
    ) -> None:
        self.pool = pool
        self._directory, self._config, self._model = directory, config, model
        self._launch_command, self._parent, self._events = launch_command, parent, events
        self._ready_before, self._engine_hint = ready_before, engine_hint
        self._socket = run_directory.socket_path(directory)
        self._store = self._socket.with_suffix(f".{pool.attempt}.store")
        self._tails = {rank: LogTail(directory / f"rank-{rank}.log") for rank in range(config.ranks)}
        self._first_lost: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._exits: dict[int, asyncio.Future[protocol.RankExited]] = {
            rank: asyncio.get_running_loop().create_future() for rank in range(config.ranks)
        }
        self._pids: dict[int, int] = {}
        self._parent_fails = False
        self._kills_before: int | None = None
        self._refusals: set[str] = set()
        self._turned_away = 0
        self._all_left = asyncio.Event()

    async def start(self) -> None:
        """Have the ranks forked, by a new parent if there is none; they connect to the socket by themselves.

        Raises:
            OSError: it cannot be started.
        """
        self._parent.hear = self._hear
        self._kills_before = kernel.out_of_memory_kills()
        if not self._parent.lives or self._parent_stands_still():
            await self._start_parent()
        ranks, store = self._config.ranks, None
        if self._config.dispatch == "split" and ranks > 1:
            self._store.unlink(missing_ok=True)
            store = str(self._store)
        # GPUs are counted for each launch: there may be fewer than there were.
        on_gpus = self._config.device != "cpu"
        gpus = await asyncio.to_thread(telemetry.rank_variables, os.environ) if on_gpus else {}
        self._parent.order(
            *(
                protocol.StartRank(
                    rank=rank,
                    world_size=ranks,
                    attempt=self.pool.attempt,
                    store=store,
                    environment=gpus,
                    engine_hint=self._engine_hint,
                )
                for rank in range(ranks)
            )
        )

    def _parent_stands_still(self) -> bool:
        """Whether the parent is stopped, so that it would fork no ranks."""
        look = kernel.look_at(self._parent.pid) if self._parent.pid is not None else None
        if look is None or look.doing != "stopped":
            return False
        self._events.log("supervisor", "the ranks' parent is stopped: another takes its place")
        return True

    async def _start_parent(self) -> None:
        on_cpu = self._config.device == "cpu"
        config_file = self._directory / "accelerate.yaml"
        accelerate.write_accelerate_config(config_file, on_cpu)
        arguments = ["--run-dir", str(self._directory), "--socket", str(self._socket), "--model", self._model]
        engine: str = self._config.engine
        if engine == "auto" and self._engine_hint is not None:
            engine = self._engine_hint.engine or engine
        arguments += ["--engine", engine] if engine == "vllm" else []
        command = self._launch_command(config_file, "rankdeck.runner.rank.parent", arguments)
        environment = rank_environment(
            os.environ,
            self._config.ranks,
            on_cpu,
            processes.usable_cores(),
            expandable_segments=not processes.under_wsl(),  # where they may fail in the middle of a run
            engine=engine,
        )
        self._events.log("supervisor", "starting " + " ".join(command))
        await self._parent.start(command, environment)

    async def serve(self, peer: RankPeer) -> None:
        """Listen to a rank until it hangs up; one that is not of this launch is refused, and changes nothing."""
        if (refusal := await self._why_refused(peer)) is not None:
            await self._refuse(peer, refusal)
            return
        if await self.pool.serve(peer):
            self._lost(peer.hello.rank)
        else:
            self._count_those_left()

    def give_up(self, rank: int, why: str) -> None:
        """Take a rank for lost. Of one that never came it is the parent that fails: the next launch has another."""
        self._parent_fails = self._parent_fails or rank in self.pool.to_come
        self.pool.give_up(rank, why)
        self._lost(rank)

    def process_of(self, rank: int) -> int | None:
        """The process of a rank, or of the parent that has yet to fork it; None if that cannot be known."""
        pid = self.pool.pids.get(rank, self._pids.get(rank))
        return self._parent.pid if pid is None and rank in self.pool.to_come else pid

    async def over(self) -> Loss | None:
        """Wait until all ranks have left as they were told (None), or one is lost."""
        tasks = [
            asyncio.create_task(work) for work in (self._all_left.wait(), self._left_in_time(), self._parent_lost())
        ]
        all_left, too_late, parent_lost = tasks
        try:
            waited: list[asyncio.Future[Any]] = [self._first_lost, *tasks]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._first_lost.done():
                return await self._loss(self._first_lost.result())
            if all_left.done():
                return None
            if parent_lost.done():
                return Loss(None, await self._parent.why_gone(), hopeless=not self.pool.ready)
            if too_late.done():
                self._events.log("supervisor", f"some ranks did not leave within {LEAVE_SECONDS:.0f} s")
            return None
        finally:
            for task in tasks:
                task.cancel()

    async def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for all ranks to leave by themselves."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_left.wait(), seconds)

    async def end(self) -> None:
        """End every process of the ranks that is left."""
        await (self._parent.end() if self._parent_fails else self._parent.end_ranks())
        with contextlib.suppress(OSError):
            self._store.unlink(missing_ok=True)
        for rank in range(self._config.ranks):
            shutil.rmtree(scratch_of(str(self._socket), rank), ignore_errors=True)
        self.look_at_logs(last_look=True)

    def look_at_logs(self, *, last_look: bool = False) -> None:
        """Log what the ranks have written since the last look."""
        for rank, tail in self._tails.items():
            for line in tail.new_lines(last_look=last_look):
                self._events.log(f"rank {rank}", line)

    async def _refuse(self, peer: RankPeer, why: str) -> None:
        """Turn a rank away after a moment, and log it the first time: one who tries on and on costs little."""
        if why not in self._refusals:
            self._refusals.add(why)
            self._events.log("supervisor", f"refused a rank: {why}")
        if self._turned_away < MOST_TURNED_AWAY:
            self._turned_away += 1
            await asyncio.sleep(REFUSE_SECONDS)
            self._turned_away -= 1
        peer.refuse(why)

    async def _why_refused(self, peer: RankPeer) -> str | None:
        if (refusal := self.pool.why_refused(peer.hello)) is not None:
            return refusal
        if peer.pid is None or kernel.descends_from(peer.pid, os.getpid()):
            return None
        # A rank that has failed at once is gone before its greeting is read: then the parent's word for it is enough.
        deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
        while peer.pid not in self._pids.values():
            if kernel.look_at(peer.pid) is not None or asyncio.get_running_loop().time() > deadline:
                return f"process {peer.pid} was not started by this run"
            await asyncio.sleep(LOOK_SECONDS)
        return self.pool.why_refused(peer.hello)

    def _hear(self, report: protocol.FromParent) -> None:
        match report:
            case protocol.ParentImporting():
                for rank in range(self._config.ranks):
                    self._events.emit(protocol.RankPhase(rank=rank, phase="importing"))
            case protocol.RankForked() if report.attempt == self.pool.attempt:
                self._pids[report.rank] = report.pid
            case protocol.RankExited() if report.attempt == self.pool.attempt and not self._exits[report.rank].done():
                self._exits[report.rank].set_result(report)
                # What it said at last may be on its way still. A child of its may hold its connection open, too.
                asyncio.get_running_loop().call_later(CONNECT_SECONDS, self._exited, report)

    def _exited(self, report: protocol.RankExited) -> None:
        if not self.pool.leaving:
            self._lost(report.rank)
        elif report.status:
            self._all_left.set()  # the others may wait for it for ever
        else:
            self._count_those_left()

    def _lost(self, rank: int) -> None:
        if not self._first_lost.done():
            self._first_lost.set_result(rank)

    def _count_those_left(self) -> None:
        if self.pool.leaving and all(self._exits[rank].done() for rank in self.pool.connected):
            self._all_left.set()

    async def _parent_lost(self) -> None:
        """Wait until the parent is gone and has left ranks unstarted. Those that have connected need it no more."""
        await self._parent.gone()
        watching = [asyncio.create_task(self._watch_orphan(rank, pid)) for rank, pid in self._pids.items()]
        try:
            await asyncio.sleep(CONNECT_SECONDS)
            if len(self.pool.connected) == self._config.ranks:
                self._events.log("launcher", "the ranks' parent is gone; the ranks go on")
                await asyncio.Event().wait()
        finally:
            for watched in watching:
                watched.cancel()

    async def _watch_orphan(self, rank: int, pid: int) -> None:
        status = await exit_status_of(pid)
        self._hear(protocol.RankExited(rank=rank, attempt=self.pool.attempt, status=status))

    async def _left_in_time(self) -> None:
        await self.pool.told_to_leave.wait()
        await asyncio.sleep(LEAVE_SECONDS)

    async def _loss(self, rank: int) -> Loss:
        if (why := self.pool.given_up.get(rank)) is not None:
            return Loss(rank, why, hopeless=False)
        said = self.pool.errors.get(rank)
        if said is not None:
            return Loss(rank, said, hopeless=not self.pool.ready)
        status = await self._exit_status_of(rank)
        self.look_at_logs(last_look=True)
        if self._exits[rank].done() and (error := self._exits[rank].result().error):
            return Loss(rank, error, hopeless=False)
        no_room_yet = not self.pool.ready and not self._ready_before
        if status == -signal.SIGKILL and no_room_yet and self._memory_may_have_run_out():
            return Loss(rank, last_words.out_of_memory_while_loading(self._config.ranks), hopeless=True)
        return Loss(rank, last_words.end_of_rank(status, list(self._tails[rank].recent)), hopeless=False)

    def _memory_may_have_run_out(self) -> bool:
        """Whether the kernel has killed a process for lack of memory since the launch began, or cannot say."""
        now = kernel.out_of_memory_kills()
        return now is None or now != self._kills_before

    async def _exit_status_of(self, rank: int) -> int | None:
        """How a rank's process ended; None if nobody says so in time."""
        await asyncio.wait({self._exits[rank]}, timeout=LAST_WORDS_SECONDS)
        return self._exits[rank].result().status if self._exits[rank].done() else None
