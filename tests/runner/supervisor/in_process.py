"""A launch of ranks without processes or sockets: the supervisor's own modules, and peers that keep what they get."""

from pathlib import Path

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.inputs.frozen_prompts import freeze
from rankdeck.runner.protocol import BatchResult, FromRank, RankHello, Work
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.records import Ledger
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.state import RunState
from rankdeck.runner.supervisor.event_stream import EventStream
from rankdeck.runner.supervisor.failures import Failures
from rankdeck.runner.supervisor.handing_out import ConnectedRank
from rankdeck.runner.supervisor.knobs import KnobControls
from rankdeck.runner.supervisor.outputs import Outputs
from rankdeck.runner.supervisor.ranks import RankPool
from tests.standin.rank import record_of

STEPS = 4


class KeptPeer:
    """A rank's end of the connection: `sent` is what it was sent."""

    def __init__(self, rank: int, ranks: int, attempt: int = 1) -> None:
        self.hello = RankHello(rank=rank, world_size=ranks, attempt=attempt)
        self.pid: int | None = None
        self.sent: list = []
        self.hung_up = False

    def send(self, order) -> None:
        self.sent.append(order)

    def close(self) -> None:
        self.hung_up = True

    abort = close

    @property
    def work(self) -> list[Work]:
        return [order for order in self.sent if isinstance(order, Work)]


def ready(rank: int, engine: str = "static") -> protocol.RankReady:
    return protocol.RankReady(
        rank=rank, device="cpu", device_name="CPU", dtype="float32", engine=engine, seconds=0.1, parameters=1
    )


def result(rows: int) -> BatchResult:
    """The account of a batch as a stand-in rank gives it."""
    return BatchResult(
        rows=rows, prompt_tokens=2 * rows, output_tokens=STEPS * rows, slots=(8 + STEPS) * rows, padded_slots=6 * rows,
        steps=STEPS, prefill_seconds=0.001, decode_seconds=0.003, seconds=0.004,
    )  # fmt: skip


def outputs_of(work: Work, rank: int) -> list[protocol.Output]:
    """What an honest rank answers to an order."""
    return [
        protocol.Output(record=msgspec.structs.replace(record_of(prompt), rank=rank, batch=work.batch))
        for prompt in work.prompts
    ]


class Launch:
    """One launch over `prompts` prompts in `directory`."""

    def __init__(self, directory: Path, prompts: int = 12, **settings) -> None:
        (directory / "p.txt").write_text("".join(f"prompt number {number}\n" for number in range(prompts)))
        index = freeze(str(directory / "p.txt"), directory / "prompts.jsonl", column=None, limit=None, chat=False)
        values = {"ranks": 2, "batch_size": 3, "max_new_tokens": 10, **settings}
        self.config = RunConfig(prompts=str(directory / "p.txt"), **values)
        self.scheduler = Scheduler(
            index.lengths, order="input", batch_size=self.config.batch_size or 1, active_ranks=self.config.ranks
        )
        self.events = EventStream(directory, RunState())
        self.events.emit(
            protocol.RunStarted(name="n", directory=str(directory), config=self.config, prompts=index.count)
        )
        self.controls = KnobControls(self.config, self.scheduler, index.lengths, self.events)
        self.outputs = Outputs(directory, index, Ledger(index.count), self.scheduler, self.controls, self.events)
        self.failures = Failures(self.scheduler, self.controls, self.outputs, self.events)
        self.attempt = 0
        self.launch_again()

    def launch_again(self) -> None:
        """Launch the ranks, perhaps once more."""
        self.attempt += 1
        self.events.emit(protocol.RanksLaunched(attempt=self.attempt, world_size=self.config.ranks))
        self.pool = RankPool(
            self.attempt,
            self.config,
            self.outputs._prompts,
            self.scheduler,
            controls=self.controls,
            outputs=self.outputs,
            failures=self.failures,
            events=self.events,
        )

    @property
    def state(self):
        return self.events.state

    def connect(self) -> list[ConnectedRank]:
        """All ranks greet."""
        return [self.pool.let_in(self.peer(number)) for number in range(self.config.ranks)]

    def peer(self, number: int) -> KeptPeer:
        return KeptPeer(number, self.config.ranks, self.attempt)

    def connect_ready(self, engine: str = "static") -> list[ConnectedRank]:
        """All ranks greet and are ready, so that they have their first batches."""
        connected = self.connect()
        for rank in connected:
            self.say(rank, ready(rank.number, engine))
        return connected

    def say(self, rank: ConnectedRank, *messages: FromRank) -> None:
        for message in messages:
            self.pool.listen(rank, message)

    def answer(self, rank: ConnectedRank, work: Work) -> None:
        """The rank does a closed batch."""
        self.say(rank, *outputs_of(work, rank.number))
        self.say(rank, protocol.BatchFinished(rank=rank.number, batch=work.batch, result=result(len(work.prompts))))

    def answer_all(self, *, most: int = 1000) -> None:
        """The ranks do whatever they are given until they are told to leave, in `most` orders at most."""
        done: set[int] = set()
        for _ in range(most):
            waiting = [
                (rank, work)
                for rank in self.pool.work.ranks.values()
                for work in rank.peer.work
                if work.batch not in done
            ]
            if not waiting:
                break
            rank, work = waiting[0]
            done.add(work.batch)
            if work.batch in self.scheduler.in_flight:
                self.answer(rank, work)
        assert self.pool.leaving, "the ranks were never told to leave"

    def records(self) -> list[protocol.OutputRecord]:
        self.outputs.store.flush()
        lines = self.outputs.store._path.read_bytes().splitlines()
        return sorted(
            (msgspec.json.decode(line, type=protocol.OutputRecord) for line in lines), key=lambda record: record.index
        )
