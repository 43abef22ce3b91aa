"""Scripted runs: protocol events that make a realistic state at each point of a run's life. No clock, no I/O."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol import (
    AnyEvent,
    BatchResult,
    DeviceSample,
    OutputRecord,
    ProcessSample,
    StepsInFlight,
    Summary,
)
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, Snapshot, apply, summarise

START = 1_700_000_000.0
GIB = 2**30
DIRECTORY = "/home/ada/.local/state/rankdeck/runs/calm-harbour"

OPENINGS = (
    ("The lighthouse keeper counted the ships", " twice, because the ninth one had no lamp and no name."),
    ("In the last library on the moon", " the books were chained, not against thieves but against drifting."),
    ("My grandmother kept the storm in a jar", " on the second shelf, between the plums and the good vinegar."),
    ("When the river changed its mind", " the mill stood in a meadow, turning out of habit."),
    ("Nobody had told the robot", " that Sundays were for doing nothing, so it did nothing very fast."),
    ("The map had one street too many", " and she lived on it."),
)


def config(ranks: int = 2, batch_size: int = 16) -> RunConfig:
    return RunConfig(
        prompts="sample_prompts/stories.txt",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        ranks=ranks,
        batch_size=batch_size,
        max_new_tokens=50,
    )


class Script:
    """Writes a run's events one after the other; `at` is the time of the next one."""

    def __init__(self, ranks: int = 2, *, gpus: int = 0, prompts: int = 100, batch_size: int = 16) -> None:
        self.ranks, self.gpus, self.prompts, self.batch_size = ranks, gpus, prompts, batch_size
        self.at = START
        self.events: list[AnyEvent] = []
        self.batches = 0
        self.next_index = 0

    def add(self, *events: AnyEvent) -> "Script":
        self.events.extend(replace(event, at=self.at) for event in events)
        return self

    def wait(self, seconds: float) -> "Script":
        self.at += seconds
        return self

    @property
    def state(self) -> RunState:
        state = RunState()
        for event in self.events:
            state = apply(state, event)
        return state

    def snapshot(self) -> Snapshot:
        return Snapshot(state=self.state)

    # --- chapters of a run -------------------------------------------------------------------

    def started(self) -> "Script":
        started = protocol.RunStarted(
            name="calm-harbour",
            directory=DIRECTORY,
            config=config(self.ranks, self.batch_size),
            prompts=self.prompts,
        )
        return self.add(started).log("supervisor", "run calm-harbour, 100 prompts").wait(0.2).telemetry()

    def log(self, source: str, text: str) -> "Script":
        return self.add(protocol.LogLine(source=source, text=text))

    def telemetry(self) -> "Script":
        reason = None if self.gpus else "no NVIDIA driver library (libnvidia-ml.so.1) on this machine"
        return self.add(protocol.TelemetryStarted(gpus=self.gpus, reason=reason)).tick()

    def fetching(self) -> "Script":
        mib = 2**20
        return (
            self.add(protocol.ModelProgress(phase="fetching", done=0, total=93 * mib))
            .wait(4)
            .add(protocol.ModelProgress(phase="fetching", done=41 * mib, total=93 * mib))
        )

    def launched(self) -> "Script":
        self.wait(0.3).add(protocol.ModelProgress(phase="found"))
        self.wait(0.1).add(protocol.RanksLaunched(attempt=1, world_size=self.ranks))
        return self.log("launcher", f"accelerate launch with {self.ranks} ranks")

    def loading(self) -> "Script":
        """All ranks on their way, the first ones a step ahead of the others."""
        for rank in range(self.ranks):
            self.wait(0.1).add(protocol.RankPhase(rank=rank, phase="importing"))
        self.wait(4)
        for rank in range(self.ranks):
            self.wait(0.2).add(protocol.RankPhase(rank=rank, phase="joining"))
        for rank in range((self.ranks + 1) // 2):
            self.add(protocol.RankPhase(rank=rank, phase="loading"))
            self.log(f"rank {rank}", "loading weights from model.safetensors")
        return self.wait(3).tick()

    def ready(self) -> "Script":
        for rank in range(self.ranks):
            self.add(ready(rank, self.gpus))
        first = protocol.BatchSizeChanged(batch_size=self.batch_size, auto=False, reason="as asked for")
        return self.wait(0.1).add(protocol.RanksReady(), first)

    def begin_batch(self, rank: int) -> "Script":
        self.batches += 1
        rows = min(self.batch_size, self.prompts - self.next_index)
        return self.add(protocol.BatchStarted(rank=rank, batch=self.batches, rows=rows))

    def tick(self, step: int = 0, batches: Sequence[int] = ()) -> "Script":
        steps = [
            StepsInFlight(
                rank=rank, batch=batch, step=min(50, step + rank), output_tokens=min(50, step + rank) * self.batch_size
            )
            for rank, batch in enumerate(batches)
        ]
        devices = [gpu(index, self.at) for index in range(self.gpus)] or None
        processes = [
            ProcessSample(rank=rank, cpu_percent=96.0 + rank, rss_bytes=int((1.31 + 0.02 * rank) * GIB))
            for rank in range(self.ranks)
        ]
        running = any(isinstance(event, protocol.RanksLaunched) for event in self.events)
        return self.add(protocol.Tick(steps=steps, devices=devices, processes=processes if running else None))

    def round(self, *, finish: bool = True, seconds: float = 5.0) -> "Script":
        """One batch per rank, decoded second by second; each rank is done at the end of it."""
        numbers, indexes = [], []
        for rank in range(self.ranks):
            self.begin_batch(rank)
            numbers.append(self.batches)
            rows = min(self.batch_size, self.prompts - self.next_index)
            indexes.append(range(self.next_index, self.next_index + rows))
            self.next_index += rows
        beats = int(seconds)
        for beat in range(1, beats + (0 if finish else 1)):
            self.wait(1).tick(step=int(beat * 46 / seconds), batches=numbers)
        if finish:
            self.wait(seconds - beats + 1)
            for rank, number in enumerate(numbers):
                self.wait(0.05).finish_batch(rank, number, indexes[rank])
        return self

    def finish_batch(self, rank: int, number: int, indexes: Iterable[int]) -> "Script":
        records = [record(index, rank, number) for index in indexes]
        for each in records:
            self.add(protocol.Output(record=each))
        tokens = sum(each.output_tokens for each in records)
        result = BatchResult(
            rows=len(records),
            prompt_tokens=sum(each.prompt_tokens for each in records),
            output_tokens=tokens,
            slots=max(1, int((tokens + 9 * len(records)) / 0.88)),
            padded_slots=int((tokens + 9 * len(records)) / 0.88 * 0.12),
            steps=50,
            prefill_seconds=0.2,
            decode_seconds=4.6,
            seconds=5.0,
        )
        return self.add(protocol.BatchFinished(rank=rank, batch=number, result=result))

    def ended(self, cause: str | None = None, status: protocol.RunStatus = "completed") -> "Script":
        summary: Summary = summarise(self.state)
        code = {"completed": 0, "failed": 3, "stopped": 130}[status]
        return self.add(protocol.RunEnded(status=status, exit_status=code, summary=summary, cause=cause))


# --- runs at a point of their life ----------------------------------------------------------------


def starting() -> Script:
    return Script().started()


def fetching() -> Script:
    return starting().fetching()


def loading(ranks: int = 2, gpus: int = 0) -> Script:
    return Script(ranks, gpus=gpus).started().launched().loading()


def running(ranks: int = 2, *, gpus: int = 0, prompts: int = 100, batch_size: int = 16) -> Script:
    """In the middle: two rounds done, the third in flight."""
    script = Script(ranks, gpus=gpus, prompts=prompts, batch_size=batch_size).started().launched().loading().ready()
    return script.round().round(seconds=6).round(finish=False, seconds=4)


def lost_gpu(gpus: int) -> Script:
    """The second GPU no longer answers; the others go on."""
    script = running(gpus, gpus=gpus, prompts=1000)
    tick = next(event for event in reversed(script.events) if isinstance(event, protocol.Tick))
    devices = list(tick.devices or ())
    devices[1] = DeviceSample(
        index=1, uuid=devices[1].uuid, name=devices[1].name, pci_bus_id=devices[1].pci_bus_id, lost=True,
        unavailable={"lost": "GPU is lost: it has fallen off the bus or has otherwise become inaccessible"},
    )  # fmt: skip
    return script.wait(0.25).add(replace(tick, devices=devices))


def completed(ranks: int = 2, *, gpus: int = 0) -> Script:
    script = Script(ranks, gpus=gpus).started().launched().loading().ready()
    while script.next_index < script.prompts:
        script.round()
    return script.ended()


CAUSE = (
    "rank 1: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of "
    "79.15 GiB of which 1.12 GiB is free. Use a smaller --batch-size."
)


def failed(ranks: int = 2, *, gpus: int = 0) -> Script:
    script = running(ranks, gpus=gpus)
    failure = protocol.BatchFailed(rank=1, batch=6, kind="out_of_memory", error="CUDA out of memory")
    script.add(failure).log("rank 1", "torch.OutOfMemoryError: CUDA out of memory.")
    script.add(protocol.RankLost(rank=1, cause=CAUSE.removeprefix("rank 1: ")))
    return script.wait(0.5).ended(CAUSE, "failed")


# --- values -----------------------------------------------------------------------------------


def record(index: int, rank: int | None = 0, batch: int | None = 1, text: str | None = None) -> OutputRecord:
    opening, answer = OPENINGS[index % len(OPENINGS)]
    return OutputRecord(
        index=index,
        id=str(index),
        prompt=opening,
        text=answer if text is None else text,
        prompt_tokens=len(opening.split()) + 2,
        output_tokens=38 + index * 7 % 13,
        finish_reason="length" if index * 7 % 13 == 12 else "stop",
        rank=rank,
        batch=batch,
    )


def gpu(index: int, at: float = START) -> DeviceSample:
    wave = int(at) * 7 + index * 3
    return DeviceSample(
        index=index,
        uuid=f"GPU-{index:08d}-0000-0000-0000-000000000000",
        name="NVIDIA H100 80GB HBM3",
        pci_bus_id=f"00000000:{index + 1:02X}:00.0",
        busy_percent=float(90 + wave % 10),
        memory_used_bytes=int((24.1 + 0.3 * index) * GIB),
        memory_total_bytes=int(79.6 * GIB),
        power_watts=400.0 + wave % 40,
        power_limit_watts=700.0,
        sm_clock_mhz=1980,
        sm_clock_max_mhz=1980,
        temperature_celsius=58 + index,
        slowdown_celsius=90,
        throttle_reasons=["power cap"] if index == 3 else [],
        dram_percent=float(18 + wave % 5),
        tensor_percent=float(3 + wave % 3),
    )


def ready(rank: int, gpus: int) -> protocol.RankReady:
    """A rank's word that it is ready, on one of so many GPUs, or on a CPU."""
    if not gpus:
        return protocol.RankReady(
            rank=rank,
            device="cpu",
            device_name="AMD EPYC 9354",
            dtype="float32",
            engine="static",
            seconds=7.1,
            parameters=134_515_008,
            threads=1,
            parameter_bytes=4 * 134_515_008,
            weight_read_bytes=4 * 134_515_008,
            kv_bytes_per_token=46_080,
            bandwidth_bytes_per_second=18e9,
            matrix_flops_per_second=2e11,
        )
    index = rank % gpus
    return protocol.RankReady(
        rank=rank,
        device=f"cuda:{index}",
        device_name="NVIDIA H100 80GB HBM3",
        dtype="bfloat16",
        engine="static",
        seconds=7.1,
        parameters=134_515_008,
        device_uuid=f"{index:08d}-0000-0000-0000-000000000000",
        pci_bus_id=f"00000000:{index + 1:02X}:00.0",
        parameter_bytes=2 * 134_515_008,
        weight_read_bytes=2 * 134_515_008,
        kv_bytes_per_token=23_040,
        bandwidth_bytes_per_second=2.9e12,
        matrix_flops_per_second=7e14,
    )
