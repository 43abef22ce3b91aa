"""Scripted runs in which knobs are turned, ranks are lost, memory and disks run out. No clock, no I/O."""

from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchFinished
from tests.scripted import GIB, Script

SEGFAULT = "killed by SIGSEGV: Fatal Python error: Segmentation fault in torch/nn/modules/linear.py"
DISK_FULL = "outputs.jsonl cannot be written: No space left on device"
SETTLED = "settled at 32: 32 -> 64 changed tokens/s by +2%, and a larger batch must gain 5 %"


class SteeredScript(Script):
    """A run whose batches go to the active ranks only; larger ones are faster per prompt, up to a size of 32."""

    def __init__(self, ranks: int = 2, *, gpus: int = 0, prompts: int = 400, batch_size: int = 4) -> None:
        super().__init__(ranks, gpus=gpus, prompts=prompts, batch_size=batch_size)
        self.active = ranks

    def begun(self, *, auto: bool = False, reason: str = "as asked for") -> "SteeredScript":
        self.started().launched().loading().ready()
        return self.size(self.batch_size, auto=auto, reason=reason)

    def size(self, batch_size: int, *, auto: bool = False, reason: str = "as asked for") -> "SteeredScript":
        self.batch_size = batch_size
        self.add(protocol.BatchSizeChanged(batch_size=batch_size, auto=auto, reason=reason))
        return self

    def activate(self, active_ranks: int) -> "SteeredScript":
        self.active = active_ranks
        self.add(protocol.ActiveRanksChanged(active_ranks=active_ranks))
        return self

    def rounds(self, number: int, *, finish: bool = True) -> "SteeredScript":
        """So many batches of every active rank; of unfinished ones only the last is still in hand."""
        for position in range(number):
            self._one_round(finish=finish or position + 1 < number)
        return self

    def idle(self, seconds: int) -> "SteeredScript":
        """Time in which no batch is handed out."""
        for _ in range(4 * seconds):
            self.wait(0.25).tick()
        return self

    def _one_round(self, *, finish: bool) -> None:
        numbers, indexes = [], []
        for rank in range(self.active):
            self.begin_batch(rank)
            numbers.append(self.batches)
            indexes.append(range(self.next_index, self.next_index + self.batch_size))
            self.next_index += self.batch_size
        beats = int(4 + self.batch_size / 2 + max(0, self.batch_size - 32) / 10)
        for beat in range(1, beats + 1 if finish else beats // 2):
            self.wait(0.5).tick(step=max(1, beat * 46 // beats), batches=numbers)
        for rank, number in enumerate(numbers if finish else ()):
            self.wait(0.03).finish_batch(rank, number, indexes[rank])
            last = self.events[-1]
            assert isinstance(last, BatchFinished)
            if self.gpus:
                peak = int((0.9 + 0.08 * self.batch_size) * GIB)
                self.events[-1] = replace(last, result=replace(last.result, peak_memory_bytes=peak))


def knob_turned(gpus: int = 0) -> SteeredScript:
    """Batch size 4, then 8, measured."""
    return SteeredScript(gpus=gpus).begun().rounds(3).size(8).rounds(2).rounds(1, finish=False)


def knob_just_turned() -> SteeredScript:
    return SteeredScript().begun().rounds(3).size(8).rounds(1, finish=False)


def one_of_two(gpus: int = 0) -> SteeredScript:
    """Two ranks, then one of them; the table has both."""
    return SteeredScript(gpus=gpus, batch_size=8).begun().rounds(3).activate(1).rounds(2).rounds(1, finish=False)


def scaled(ranks: int = 8) -> SteeredScript:
    """1, 2, 4 and 8 of 8 ranks, one after the other."""
    script = SteeredScript(ranks, gpus=ranks, prompts=2000, batch_size=8).begun().rounds(2)
    for active in (1, 2, 4, 8):
        script.activate(active).rounds(2)
    return script.rounds(1, finish=False)


def paused() -> SteeredScript:
    script = SteeredScript(batch_size=8).begun().rounds(3)
    script.add(protocol.Paused(reason="asked for", asked=True))
    return script.idle(3)


def disk_full() -> SteeredScript:
    script = SteeredScript(batch_size=8, gpus=2).begun().rounds(3)
    script.add(protocol.Paused(reason=DISK_FULL, asked=False))
    return script.idle(3)


def auto_trying() -> SteeredScript:
    script = SteeredScript(gpus=2, batch_size=16).begun(auto=True, reason="starting at 16 and growing")
    script.rounds(2).size(32, auto=True, reason="trying 32: tokens/s still grows")
    return script.rounds(1, finish=False)


def auto_settled() -> SteeredScript:
    script = SteeredScript(gpus=2, batch_size=16, prompts=2000).begun(auto=True, reason="starting at 16 and growing")
    for batch_size in (32, 64):
        script.rounds(2).size(batch_size, auto=True, reason=f"trying {batch_size}: tokens/s still grows")
    return script.rounds(2).size(32, reason=SETTLED).rounds(1).rounds(1, finish=False)


def rank_lost() -> SteeredScript:
    """A rank died in the middle of its batch; nothing was launched afresh yet."""
    script = SteeredScript(batch_size=8).begun().rounds(3).rounds(1, finish=False)
    script.add(protocol.RankLost(rank=1, cause=SEGFAULT))
    return script


def relaunching(gpus: int = 0) -> SteeredScript:
    """A rank died, and the ranks are on their way again."""
    script = SteeredScript(batch_size=8, gpus=gpus).begun().rounds(3).rounds(1, finish=False)
    script.add(protocol.RankLost(rank=1, cause=SEGFAULT))
    script.log("supervisor", f"rank 1: {SEGFAULT}; launching the ranks afresh, 2 restarts left after this")
    script.wait(0.3).add(protocol.RanksLaunched(attempt=2, world_size=2, restarts_left=2))
    script.loading()
    return script


def relaunched() -> SteeredScript:
    """Under way again after a lost rank."""
    script = relaunching()
    script.ready()
    return script.rounds(1).rounds(1, finish=False)


def out_of_memory() -> SteeredScript:
    """A batch of 16 did not fit into rank 1, which gets at most 8 from then on."""
    script = SteeredScript(gpus=2, batch_size=8).begun().rounds(2).size(16)
    script.begin_batch(0).begin_batch(1)
    failed = protocol.BatchFailed(rank=1, batch=script.batches, kind="out_of_memory", error="CUDA out of memory")
    script.wait(2).add(failed, protocol.RankCapped(rank=1, batch_size=8))
    script.wait(4).tick(46, [script.batches - 1]).finish_batch(0, script.batches - 1, range(400, 416))
    return script.rounds(1, finish=False)


def advice() -> SteeredScript:
    """3 ranks at batch size 16: the last round is for a few prompts only."""
    return SteeredScript(3, gpus=3, prompts=100, batch_size=16).begun().rounds(1).rounds(1, finish=False)


STATES = {
    "knob_turned": knob_turned,
    "knob_just_turned": knob_just_turned,
    "one_of_two_ranks": lambda: one_of_two(2),
    "scaled_to_eight": scaled,
    "paused": paused,
    "disk_full": disk_full,
    "auto_trying": auto_trying,
    "auto_settled": auto_settled,
    "rank_lost": rank_lost,
    "relaunching": lambda: relaunching(2),
    "relaunched": relaunched,
    "out_of_memory": out_of_memory,
    "advice": advice,
}
