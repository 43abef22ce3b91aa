"""A rank at work: it takes orders, generates, and sends records and accounts, until it is told to leave.

Knows the conversation about batches, and which errors a rank survives. How a batch is generated is the engine's
business; a continuous rank's rows are `runner.rank.continuous_rank`'s. Imports torch.
"""

import os
import traceback
from collections.abc import Sequence
from typing import cast

import msgspec
import torch

from rankdeck.runner import protocol
from rankdeck.runner.engine import errors, memory
from rankdeck.runner.engine.base import Engine
from rankdeck.runner.engine.rows import Cancelled, Progress
from rankdeck.runner.engine.rows_engine import RowsEngine
from rankdeck.runner.protocol import OutputRecord, Work, record_digest
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.rank.continuous_rank import ContinuousRank
from rankdeck.runner.rank.link import Link


class DeviceLostError(RuntimeError):
    """This process can no longer use its GPUs; a new one usually can."""

    def __init__(self, devices: Sequence[torch.device], cause: Exception) -> None:
        names = ", ".join(str(device) for device in devices)
        super().__init__(f"this process can no longer use {names}: {errors.in_one_line(cause)}")


class EngineBrokenError(RuntimeError):
    """This process's engine can generate nothing more; a new one usually can."""


class RankWork:
    """The work of one rank. `digests` are those of the records it sent, kept for the gather of `split` dispatch."""

    def __init__(self, rank: int, config: RunConfig, engine: Engine, link: Link) -> None:
        self._rank, self._config, self._engine, self._link = rank, config, engine, link
        self.digests: list[tuple[int, str]] = []

    def run(self) -> bool:
        """Generate until told to leave; returns whether the ranks are to gather."""
        if self._rank:
            self._engine.take_notes()  # notes from before the first batch are the same everywhere: rank 0 sends them
        leave: protocol.Leave | None = None
        failed_stream = 0
        while leave is None and isinstance(order := self._link.next_order(), Work):
            if order.stream == failed_stream:
                continue  # sent before the supervisor knew of the failure: its prompts are back in the queue
            try:
                leave = self._do(order)
            except Cancelled:
                continue
            except Exception as error:
                if memory.is_lost(error, self._engine.devices):
                    raise DeviceLostError(self._engine.devices, error) from error
                if self._engine.broken:
                    if errors.is_out_of_memory(error):
                        # The next rank is to have fewer rows.
                        self._link.send(msgspec.structs.replace(self._failure(order, error), leaving=True))
                    raise EngineBrokenError(f"{self._engine.name} cannot go on: {errors.in_one_line(error)}") from error
                traceback.print_exc()
                failed_stream = order.stream or 0
                self._link.send(self._failure(order, error))
        self._engine.close()
        return (leave or cast(protocol.Leave, order)).gather

    def _failure(self, order: Work, error: Exception) -> protocol.BatchFailed:
        """What is said of a failed batch. After an out-of-memory, what it held is free again."""
        failed = protocol.BatchFailed(
            rank=self._rank,
            batch=order.stream or order.batch,
            kind="out_of_memory" if errors.is_out_of_memory(error) else "error",
            error=f"{type(error).__name__}: {error}",
        )
        if failed.kind == "out_of_memory":
            errors.forget_frames(error)
            memory.free_memory(self._engine.device)
        return failed

    def _do(self, order: Work) -> protocol.Leave | None:
        self._send_notes()
        closed = order.measure or not order.keep or order.max_new_tokens is not None
        if closed or not isinstance(self._engine, RowsEngine):
            self._generate(order)
            return None
        continuous = ContinuousRank(
            self._rank,
            self._engine,
            self._link,
            send_records=self._send_records,
            may_go_on=self._may_go_on,
            longest=self._config.new_tokens,
        )
        return continuous.run(order)

    def _may_go_on(self, batch: int) -> bool:
        """Called at every decode step: use the rank's present share of the cores; False if `batch` was cancelled."""
        cores, sharing = os.environ.get("RANKDECK_CORES"), self._link.sharing
        if self._engine.device.type == "cpu" and cores and sharing:
            self._engine.use_threads(max(1, int(cores) // sharing))
        return not self._link.cancelled(batch)

    def _generate(self, work: Work) -> None:
        """Generate a closed batch, static or measured."""

        def on_step(progress: Progress) -> None:
            self._link.progress(
                protocol.StepsInFlight(
                    rank=self._rank, batch=work.batch, step=progress.step, output_tokens=progress.output_tokens
                )
            )

        def on_records(records: list[OutputRecord]) -> None:
            if work.keep:
                self._send_records(work.batch, records)

        self._may_go_on(work.batch)
        done = self._engine.generate(
            work.prompts,
            on_step=on_step,
            cancelled=lambda: not self._may_go_on(work.batch),
            on_records=on_records,
            measure=work.measure,
            max_new_tokens=work.max_new_tokens,
        )
        self._link.send(protocol.BatchFinished(rank=self._rank, batch=work.batch, result=done.result))
        self._send_notes()

    def _send_notes(self) -> None:
        for text in self._engine.take_notes():
            self._link.send(protocol.LogLine(source=f"rank {self._rank}", text=text))

    def _send_records(self, batch: int, records: list[OutputRecord]) -> None:
        records = [msgspec.structs.replace(record, rank=self._rank, batch=batch) for record in records]
        if self._config.dispatch == "split":
            self.digests.extend((record.index, record_digest(record)) for record in records)
        self._link.send(*(protocol.Output(record=record) for record in records))
