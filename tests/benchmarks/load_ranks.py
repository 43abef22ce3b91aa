"""Simulated ranks for the load benchmark: many connections from one process, each with the traffic of a busy rank.

Started in the place of `accelerate launch`. A rank gets batches, reports its steps five times a second, then its
outputs, so that each says about ten things a second. With LOAD_GPUS it says to be on one of so many GPUs, those of
tests/scripted.py.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchResult, OutputRecord, StepsInFlight

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import scripted  # noqa: E402  (started by its path)

BATCH_SECONDS = 3.2
STEPS_A_SECOND = 5
GPUS = int(os.environ.get("LOAD_GPUS", "0"))


async def rank(number: int, world_size: int, socket: str, attempt: int) -> None:
    reader, writer = await asyncio.open_unix_connection(socket, limit=2**26)

    def say(message: object) -> None:
        writer.write(protocol.encode_line(message))  # type: ignore[arg-type]

    say(protocol.RankHello(rank=number, world_size=world_size, pid=os.getpid(), attempt=attempt))
    say(scripted.ready(number, GPUS))
    await asyncio.sleep(number / world_size * BATCH_SECONDS)
    async for line in reader:
        order = json.loads(line)
        if order["type"] != "work":
            break
        rows, batch = len(order["prompts"]), order["batch"]
        steps = int(BATCH_SECONDS * STEPS_A_SECOND)
        for step in range(1, steps + 1):
            await asyncio.sleep(1 / STEPS_A_SECOND)
            say(
                protocol.Steps(
                    steps=StepsInFlight(rank=number, batch=batch, step=step * 6, output_tokens=step * 6 * rows)
                )
            )
        for prompt in order["prompts"]:
            say(
                protocol.Output(
                    record=OutputRecord(
                        index=prompt["index"],
                        id=prompt["id"],
                        prompt=prompt["text"],
                        text="An answer of a usual length, which is some hundred characters or a few more. " * 4,
                        prompt_tokens=12,
                        output_tokens=steps * 6,
                        finish_reason="length",
                        rank=number,
                        batch=batch,
                    )
                )
            )
        tokens = steps * 6 * rows
        result = BatchResult(
            rows=rows,
            prompt_tokens=12 * rows,
            output_tokens=tokens,
            slots=tokens + 16 * rows,
            padded_slots=4 * rows,
            steps=steps * 6,
            prefill_seconds=0.1,
            decode_seconds=BATCH_SECONDS,
            seconds=BATCH_SECONDS,
        )
        say(protocol.BatchFinished(rank=number, batch=batch, result=result))
    writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir")
    parser.add_argument("--socket")
    parser.add_argument("--model")
    options = parser.parse_args()
    order = msgspec.json.decode(sys.stdin.readline(), type=protocol.StartRank)  # those of the other ranks are like it
    ranks = order.world_size
    await asyncio.gather(*(rank(number, ranks, options.socket, order.attempt) for number in range(ranks)))


if __name__ == "__main__":
    asyncio.run(main())
