"""Light stand-in ranks: real processes on the real socket, no torch.

`python rank.py launch N --run-dir …` starts N of them and ends as torchrun does: when one
dies it ends the others and exits with 1. What a rank answers depends on the prompt alone, so that
any way through the same run gives the same outputs. Prompts steer it: `!raise` makes the batch raise,
`!huge` runs out of memory, `!die` kills the rank. Files in the model's folder do too: `fail-load` makes it
fail while loading, `hold` keeps it from getting ready, `nonsense` has rank 0 say something that is no
message. STANDIN_STEP_SECONDS is the time of a decode step, STANDIN_ROOM the most rows that fit.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from runner import protocol, rundir
from runner.link import Link
from runner.protocol import BatchResult, OutputRecord, Prompt, Work

STEPS = 4


def answer(prompt: Prompt) -> str:
    """What a stand-in rank says to a prompt."""
    return f"answer to {prompt.text[::-1]}"


def launch(world_size: int, arguments: list[str]) -> int:
    """Start the ranks; end all of them when one fails."""
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "rank", *arguments],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world_size)},
            start_new_session=True,
        )
        for rank in range(world_size)
    ]

    def end(*_: object) -> None:
        for rank in ranks:
            rank.terminate()

    signal.signal(signal.SIGTERM, end)
    while any(rank.poll() is None for rank in ranks):
        for number, rank in enumerate(ranks):
            if rank.poll() not in (None, 0):
                if rank.returncode < 0:
                    name = signal.Signals(-rank.returncode).name
                    sys.stdout.write(f"Signal {-rank.returncode} ({name}) received by PID {rank.pid}\n")
                    sys.stdout.flush()
                for other in ranks[:number] + ranks[number + 1 :]:
                    other.kill()
                for other in ranks:
                    other.wait()
                return 1
        time.sleep(0.005)
    return 0


class Rank:
    """One stand-in rank."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.run = rundir.read_run_file(options.run_dir)
        self.model = Path(options.model)
        self.step_seconds = float(os.environ.get("STANDIN_STEP_SECONDS", "0.002"))
        self.link = Link(options.socket)
        self.link.send(
            protocol.RankHello(rank=self.rank, world_size=world, pid=os.getpid(), attempt=options.attempt),
            protocol.RankPhase(rank=self.rank, phase="loading"),
        )
        self.world = world
        self.digests: list[tuple[int, str]] = []

    def live(self) -> None:
        if (self.model / "fail-load").exists():
            error = "OSError: weights.bin is damaged"
            self.link.send(protocol.RankFailed(rank=self.rank, error=error, traceback=f"Traceback …\n{error}"))
            self.link.close()
            sys.exit(1)
        while (self.model / "hold").exists():
            time.sleep(0.005)
        if self.run.config.dispatch == "split":
            share, extra = divmod(self.run.prompts, self.world)
            start = self.rank * share + min(self.rank, extra)
            self.link.send(protocol.Share(rank=self.rank, start=start, stop=start + share + (self.rank < extra)))
        self.link.send(
            protocol.RankReady(
                rank=self.rank,
                device="cpu",
                device_name="CPU",
                dtype="float32",
                engine="static",
                seconds=0.1,
                parameters=1,
            )
        )
        if (self.model / "nonsense").exists() and self.rank == 0:
            self.link.send(protocol.Leave())  # type: ignore[arg-type]  # no word of a rank's
        while isinstance(order := self.link.next_order(), Work):
            self.batch(order)
        if order.gather:
            self.link.send(protocol.Gathered(records=self.digests, last=True))
        self.link.close()

    def batch(self, work: Work) -> None:
        if any(prompt.text == "!die" for prompt in work.prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        steps = min(STEPS, work.max_new_tokens or STEPS)
        for step in range(1, steps + 1):
            time.sleep(self.step_seconds)
            if self.link.cancelled(work.batch):
                return
            self.link.progress(
                protocol.StepsInFlight(
                    rank=self.rank, batch=work.batch, step=step, output_tokens=step * len(work.prompts)
                )
            )
        room = int(os.environ.get("STANDIN_ROOM", "1000000"))
        if len(work.prompts) > room or any(prompt.text == "!huge" for prompt in work.prompts):
            error = "OutOfMemoryError: CUDA out of memory."
            self.link.send(protocol.BatchFailed(rank=self.rank, batch=work.batch, kind="out_of_memory", error=error))
            return
        if any(prompt.text == "!raise" for prompt in work.prompts):
            self.link.send(
                protocol.BatchFailed(rank=self.rank, batch=work.batch, kind="error", error="ValueError: no such word")
            )
            return
        records = [
            OutputRecord(
                index=prompt.index,
                id=prompt.id,
                prompt=prompt.text,
                text=answer(prompt),
                prompt_tokens=2,
                output_tokens=steps,
                finish_reason="length",
                rank=self.rank,
                batch=work.batch,
            )
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
    mode, *arguments = sys.argv[1:]
    if mode == "launch":
        sys.exit(launch(int(arguments[0]), arguments[1:]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--socket")
    parser.add_argument("--model")
    parser.add_argument("--attempt", type=int)
    Rank(parser.parse_args(arguments)).live()


if __name__ == "__main__":
    main()
