"""Light stand-in ranks: real processes on the real socket, no torch.

`python rank.py launch --run-dir …` is their parent, which forks them as ordered, by the same code as the real one; in
their command lines is `rank` in the place of `launch`. An answer depends on its prompt alone, so every way through a
run gives the same outputs. Prompts steer the ranks: `!raise` makes the batch raise, `!huge` runs out of memory, `!die`
kills the rank, `!lose` costs it its GPU. Files in the model's folder do, too: `fail-load` makes loading fail
(`fail-load-1` on rank 1), `late` keeps ranks from greeting, `hold` keeps ranks from getting ready, in `children` each
rank leaves the number of a child process, rank 0 says once what `nonsense` holds, `wipe` has it empty the run's files
when it is told to leave. STANDIN_STEP_SECONDS is the time of a decode step on rank 0; on the others it is longer, on
the last by nearly the share STANDIN_SPREAD. STANDIN_STEPS is the length of an answer, STANDIN_ROOM the most rows that
fit, STANDIN_DEVICE what they say they run on. With `--engine continuous` or `vllm`, or where they are told that
`auto` is one of these, they are continuous ranks: the real ContinuousRank, around rows that need no model.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.engine.rows import Answer, Ended, Row
from rankdeck.runner.protocol import BatchResult, OutputRecord, Prompt, StartRank, Work
from rankdeck.runner.rank import forking
from rankdeck.runner.rank.continuous_rank import ContinuousRank
from rankdeck.runner.rank.link import Link
from rankdeck.runner.rank.options import Options, read_options

STEPS = int(os.environ.get("STANDIN_STEPS", "4"))
ROOM = int(os.environ.get("STANDIN_ROOM", "1000000"))
DEVICE = os.environ.get("STANDIN_DEVICE", "cpu")
OUT_OF_MEMORY = "OutOfMemoryError: CUDA out of memory."
NO_SUCH_WORD = "ValueError: no such word"
GPU_LOST = "DeviceLostError: this process can no longer use cuda:0: RuntimeError: CUDA error: misaligned address"


def answer(prompt: Prompt) -> str:
    """What a stand-in rank says to a prompt; to one that begins with `!say `, what follows."""
    if prompt.text.startswith("!say "):
        return prompt.text.removeprefix("!say ")
    return f"answer to {prompt.text[::-1]}"


def record_of(prompt: Prompt, steps: int = STEPS) -> OutputRecord:
    """A stand-in rank's record of a prompt, `steps` tokens long."""
    return OutputRecord(
        index=prompt.index,
        id=prompt.id,
        prompt=protocol.prompt_text(prompt),
        text=answer(prompt),
        prompt_tokens=2,
        output_tokens=steps,
        finish_reason="length",
    )


class Rows:
    """Rows without a model: each ends STEPS steps after it was submitted, and each call of `ended` is a step.

    With `stepwise` they stand still at once when told to, and those beyond the limit are kept back, as vLLM's are.
    """

    padding_known = True
    shared_tokens = 0
    most_rows = None

    def __init__(self, step_seconds: float, *, stepwise: bool = False) -> None:
        self.step_seconds, self.stepwise = step_seconds, stepwise
        self.padding_known = not stepwise
        self.steps = 0
        self.rows: dict[int, tuple[tuple[int, Prompt, int], int]] = {}
        self.kept: dict[int, tuple[tuple[int, Prompt, int], int]] = {}
        self.limit: int | None = None

    @property
    def in_flight(self) -> int:
        return len(self.rows)

    @property
    def held(self) -> int:
        return len(self.kept)

    @property
    def stands_still(self) -> bool:
        return self.stepwise and self.limit == 0 and bool(self.rows or self.kept)

    def keep_to(self, rows: int | None) -> None:
        self.limit = rows
        if not self.stepwise or rows == 0:
            return
        while rows is not None and len(self.rows) > rows:
            index, (key, began) = self.rows.popitem()
            self.kept[index] = key, self.steps - began
        for index in list(self.kept)[: None if rows is None else rows - len(self.rows)]:
            key, done = self.kept.pop(index)
            self.rows[index] = key, self.steps - done

    def prefix_hits(self) -> float | None:
        return 0.5 if self.stepwise else None

    def take_notes(self) -> list[str]:
        return []

    def submit(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.key[1].text == "!die":
                os.kill(os.getpid(), signal.SIGKILL)
            self.rows[row.key[1].index] = (row.key, self.steps)

    def ended(self, seconds: float) -> list[Ended]:
        if self.stands_still:
            time.sleep(seconds)
            return []
        time.sleep(self.step_seconds)
        self.steps += 1
        texts = {key[1].text for key, _ in self.rows.values()}
        for problem, met in (
            (OUT_OF_MEMORY, len(self.rows) > ROOM or "!huge" in texts),
            (NO_SUCH_WORD, "!raise" in texts),
        ):
            if met:
                self.close()
                raise RuntimeError(problem)
        over = [index for index, (_, began) in self.rows.items() if self.steps - began >= STEPS]
        return [(self.rows.pop(index)[0], Answer([7] * STEPS, "length"), []) for index in over]

    def tokens_in_flight(self) -> int:
        return sum(self.steps - began for _, began in self.rows.values()) + sum(done for _, done in self.kept.values())

    def cache_used(self) -> float | None:
        return min(1.0, len(self.rows) / 64)

    def peak_memory(self) -> int | None:
        return None

    def reserved_memory(self) -> int | None:
        return None

    def tokenise(self, prompts: Sequence[Prompt]) -> tuple[dict[int, list[int]], dict[int, str]]:
        good = {at: [1, 2] for at, prompt in enumerate(prompts) if prompt.text != "!unfit"}
        return good, {at: "does not fit" for at in range(len(prompts)) if at not in good}

    def answered(self, prompt: Prompt, prompt_tokens: int, answer: Answer) -> OutputRecord:
        return record_of(prompt, len(answer.tokens))

    def refused(self, prompt: Prompt, error: str) -> OutputRecord:
        return msgspec.structs.replace(
            record_of(prompt), text="", prompt_tokens=0, output_tokens=0, finish_reason="error", error=error
        )

    def close(self) -> None:
        self.rows.clear()
        self.kept.clear()


class Rank:
    """One stand-in rank."""

    def __init__(self, options: Options, order: StartRank) -> None:
        self.rank, self.world = order.rank, order.world_size
        self.run, self.run_dir = run_directory.read_run_file(options.run_dir), options.run_dir
        self.model = Path(options.model)
        self.step_seconds = float(os.environ.get("STANDIN_STEP_SECONDS", "0.002"))
        self.step_seconds *= 1 + float(os.environ.get("STANDIN_SPREAD", "0")) * self.rank / self.world
        while (self.model / "late").exists():
            time.sleep(0.005)
        self.link = Link(options.socket)
        self.link.send(
            protocol.RankHello(rank=self.rank, world_size=self.world, attempt=order.attempt),
            protocol.RankPhase(rank=self.rank, phase="loading"),
        )
        self.failed_stream = 0
        hinted = order.engine_hint.engine if order.engine_hint is not None else None
        asked = {self.run.config.engine, hinted, options.engine}
        self.engine = next((engine for engine in ("vllm", "continuous") if engine in asked), "static")
        self.continuous = self.engine != "static"
        self.digests: list[tuple[int, str]] = []

    def live(self) -> None:
        if (self.model / "children").exists():
            self.bear_a_child()
        if (self.model / "fail-load").exists() or (self.model / f"fail-load-{self.rank}").exists():
            self.give_up("OSError: weights.bin is damaged")
        while (self.model / "hold").exists():
            time.sleep(0.005)
        if self.run.config.dispatch == "split":
            share, extra = divmod(self.run.prompts, self.world)
            start = self.rank * share + min(self.rank, extra)
            self.link.send(protocol.Share(rank=self.rank, start=start, stop=start + share + (self.rank < extra)))
        if self.rank == 0:
            self.link.meet(self.rank, "limits")
        else:
            self.link.arrive(self.rank, "limits")
        self.link.send(
            protocol.RankReady(
                rank=self.rank,
                device=DEVICE,
                device_name="CPU" if DEVICE == "cpu" else "GPU",
                dtype="float32",
                engine=self.engine,
                seconds=0.1,
                parameters=1,
                most_rows=int(os.environ.get("STANDIN_MOST_ROWS", "256")) if self.engine == "vllm" else None,
            )
        )
        if (self.model / "nonsense").exists() and self.rank == 0:
            self.link.next_order()  # so that all that was sent before has arrived
            nonsense = (self.model / "nonsense").read_bytes()
            (self.model / "nonsense").unlink()
            self.link._socket.sendall(nonsense)
        while isinstance(order := self.link.next_order(), Work):
            if order.stream == self.failed_stream:
                continue
            closed = order.measure or not order.keep or order.max_new_tokens is not None
            if closed or not self.continuous:
                self.batch(order)
            elif (leave := self.work_continuously(order)) is not None:
                order = leave
                break
        if (self.model / "wipe").exists() and self.rank == 0:
            linger = (self.model / "wipe").read_text() == "linger"
            (self.model / "wipe").unlink()
            for name in (run_directory.OUTPUTS_FILE, run_directory.EVENTS_FILE):
                os.truncate(self.run_dir / name, 0)
            while linger and "are lost" not in (self.run_dir / run_directory.LOG_FILE).read_text():
                time.sleep(0.01)
        if order.gather:
            self.link.send(protocol.Gathered(records=self.digests, last=True))
        self.link.close()

    def bear_a_child(self) -> None:
        """Leave a process that nobody waits for, in a session of its own, which holds the connection open."""
        if pid := os.fork():
            (self.model / "children" / str(pid)).touch()
            return
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)

    def give_up(self, error: str) -> NoReturn:
        self.link.send(protocol.RankFailed(rank=self.rank, error=error, traceback=f"Traceback …\n{error}"))
        self.link.close()
        sys.exit(1)

    def work_continuously(self, work: Work) -> protocol.Leave | None:
        continuous = ContinuousRank(
            self.rank,
            Rows(self.step_seconds, stepwise=self.engine == "vllm"),
            self.link,
            send_records=self.send_records,
            may_go_on=lambda newest: not self.link.cancelled(newest),
            longest=STEPS,
        )
        try:
            return continuous.run(work)
        except RuntimeError as error:
            kind = "out_of_memory" if str(error) == OUT_OF_MEMORY else "error"
            self.failed_stream = work.stream or 0
            self.link.send(protocol.BatchFailed(rank=self.rank, batch=self.failed_stream, kind=kind, error=str(error)))
            return None

    def send_records(self, batch: int, records: list[OutputRecord]) -> None:
        records = [msgspec.structs.replace(record, rank=self.rank, batch=batch) for record in records]
        self.digests += [(record.index, protocol.record_digest(record)) for record in records]
        self.link.send(*(protocol.Output(record=record) for record in records))

    def batch(self, work: Work) -> None:
        if any(prompt.text == "!die" for prompt in work.prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(prompt.text == "!lose" for prompt in work.prompts):
            self.give_up(GPU_LOST)
        steps = min(STEPS, work.max_new_tokens or STEPS, self.run.config.new_tokens)
        for step in range(1, steps + 1):
            time.sleep(self.step_seconds)
            if self.link.cancelled(work.batch):
                return
            self.link.progress(
                protocol.StepsInFlight(
                    rank=self.rank, batch=work.batch, step=step, output_tokens=step * len(work.prompts)
                )
            )
        if len(work.prompts) > ROOM or any(prompt.text == "!huge" for prompt in work.prompts):
            self.link.send(
                protocol.BatchFailed(rank=self.rank, batch=work.batch, kind="out_of_memory", error=OUT_OF_MEMORY)
            )
            return
        if any(prompt.text == "!raise" for prompt in work.prompts):
            self.link.send(protocol.BatchFailed(rank=self.rank, batch=work.batch, kind="error", error=NO_SUCH_WORD))
            return
        records = [
            msgspec.structs.replace(record_of(prompt, steps), rank=self.rank, batch=work.batch)
            for prompt in work.prompts
        ]
        self.digests += [(record.index, protocol.record_digest(record)) for record in records]
        rows = len(records)
        result = BatchResult(
            rows=rows,
            prompt_tokens=2 * rows,
            output_tokens=steps * rows,
            slots=(8 + steps) * rows,
            padded_slots=6 * rows,
            steps=steps,
            prefill_seconds=self.step_seconds,
            decode_seconds=self.step_seconds * (steps - 1),
            seconds=self.step_seconds * steps,
            step_seconds=[self.step_seconds] * (steps - 1) if work.measure else None,
        )
        if not work.keep:
            self.link.send(protocol.BatchFinished(rank=self.rank, batch=work.batch, result=result))
            return
        self.link.send(
            *(protocol.Output(record=record) for record in records),
            protocol.BatchFinished(rank=self.rank, batch=work.batch, result=result),
        )


def main() -> None:
    channel = forking.take_channel()
    options = read_options(sys.argv[1:])
    forking.serve(channel, lambda order: Rank(options, order).live(), named=("launch", "rank"))


if __name__ == "__main__":
    main()
