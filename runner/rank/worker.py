"""One rank's process, started by `accelerate launch`: it joins, loads, reports ready, works and leaves.

Knows the order of these and what each reports. Which prompts a rank gets is the supervisor's business. torch and
transformers are imported only after the rank has greeted the supervisor, so that the dashboard shows it at once.
"""

import argparse
import gc
import os
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.machine import processes
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.rank import group
from rankdeck.runner.rank.device import device_facts, gpus_of_run, hide_other_gpus, hold_to_share, take_device
from rankdeck.runner.rank.link import Link
from rankdeck.runner.rank.log import log_to

if TYPE_CHECKING:
    import torch

    from rankdeck.runner.engine.base import Engine
    from rankdeck.runner.engine.memory import Share

GATHER_PART = 1000
GROUP_TIMEOUT = timedelta(days=7)
"""Ranks wait for each other through any download; that a rank has died is for the supervisor to notice."""


def main() -> NoReturn:
    """Be a rank until told to leave. The exit status is 0 only then."""
    processes.end_with_parent()
    options = _options()
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    log_to(options.run_dir / f"rank-{rank}.log")
    link = Link(options.socket)
    hello = protocol.RankHello(rank=rank, world_size=world_size, pid=os.getpid(), attempt=options.attempt)
    link.send(hello, protocol.RankPhase(rank=rank, phase="importing"))
    try:
        _Rank(options, rank, world_size, link).live()
    except BaseException as error:
        traceback.print_exc()
        name = type(error).__name__
        link.send(
            protocol.RankFailed(
                rank=rank, error=f"{name}: {error}" if str(error) else name, traceback=traceback.format_exc()
            )
        )
        link.close()
        # An ordinary exit can hang in a broken process group.
        os._exit(1)
    link.close()
    # Everything is sent and the group is left: an ordinary exit would only take longer.
    os._exit(0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rankdeck.runner.rank.worker")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    return parser.parse_args()


class _Rank:
    def __init__(self, options: argparse.Namespace, rank: int, world_size: int, link: Link) -> None:
        self.options, self.rank, self.world_size, self.link = options, rank, world_size, link
        run = run_directory.read_run_file(options.run_dir)
        self.config: RunConfig = run.config
        self.prompts = run.prompts
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        hide_other_gpus(self.config, self.local_rank)

    def live(self) -> None:
        started = time.monotonic()
        _import_without_collecting()
        from rankdeck.runner.engine import choose, loading, memory, private_names
        from rankdeck.runner.rank.work import RankWork

        private_names.require_static(compiled=self.config.compile)
        self._phase("joining")
        accelerator = self._join()
        share = hold_to_share(self.config, self.local_rank, accelerator.device)
        self._phase("loading")
        model_path = self._model_files()
        there = {"ranks": self.config.ranks, "gpus": gpus_of_run(self.config)}
        own = loading.devices_for(self.config, accelerator.device)
        with memory.explained("loading the model", own, share, **there):
            loaded = loading.load(self.config, model_path, accelerator.device)
        self._phase("warming up")
        devices = loading.devices_of(loaded.model, loaded.device)
        # Before a continuous engine takes its cache: what is free afterwards says nothing about how many rows fit.
        room = self._room(devices, share)
        with memory.explained("warming up", devices, share, **there):
            engine, why = choose.choose(self.config, loaded)
        if why and (self.rank == 0 or self.config.engine not in ("auto", engine.name)):
            self.link.send(protocol.LogLine(source=f"rank {self.rank}", text=f"{engine.name} engine: {why}"))
        if self.config.dispatch == "split":
            self._announce_share(accelerator)
        seconds = time.monotonic() - started
        bandwidth = self._copy_bandwidth(engine)
        self.link.send(self._ready(engine, why, accelerator.device, seconds, bandwidth, room))
        group.wait_for_all()
        work = RankWork(self.rank, self.config, engine, self.link)
        if work.run():
            self._gather(accelerator, work.digests)
        # Without this the process group's threads may abort the process on its way out.
        accelerator.end_training()

    def _phase(self, phase: protocol.RankPhaseName) -> None:
        self.link.send(protocol.RankPhase(rank=self.rank, phase=phase))

    def _join(self) -> Any:
        import torch
        from accelerate.utils import set_seed

        if cores := os.environ.get("RANKDECK_CORES"):
            torch.set_num_threads(max(1, int(cores) // self.world_size))
        remark = take_device(self.config, self.local_rank)
        if remark is not None and self.rank == 0:
            self.link.send(protocol.LogLine(source=f"rank {self.rank}", text=remark))
        accelerator = group.join(self.world_size, GROUP_TIMEOUT)
        if self.config.seed is not None:
            set_seed(self.config.seed, device_specific=True)
        return accelerator

    def _model_files(self) -> str:
        """The model's folder. The first rank fetches a hub model, while the others wait."""
        model: str = self.options.model
        if Path(model).is_dir():
            return model
        return group.fetched_once(
            fetch=lambda: _hub_folder(model, fetch=True), find=lambda: _hub_folder(model, fetch=False)
        )

    @staticmethod
    def _room(devices: "list[torch.device]", share: "Share | None") -> dict[str, Any]:
        """Memory of this rank's devices, as fields of RankReady."""
        from rankdeck.runner.engine import memory

        free, total = memory.free_and_total(devices)
        room = {"memory_free_bytes": free, "memory_total_bytes": total}
        return room if share is None else {**room, "memory_left_bytes": memory.left_of(share, devices[0])}

    def _announce_share(self, accelerator: Any) -> None:
        with accelerator.split_between_processes(list(range(self.prompts))) as share:
            # Older accelerate gives the last prompt again to a rank beyond the last share.
            beyond = accelerator.process_index >= self.prompts
            start, stop = (share[0], share[-1] + 1) if share and not beyond else (0, 0)
        self.link.send(protocol.Share(rank=self.rank, start=start, stop=stop))

    def _copy_bandwidth(self, engine: "Engine") -> float | None:
        """In a sweep: the memory bandwidth of rank 0's device in bytes/s, measured while the other ranks wait."""
        if self.config.sweep is None:
            return None
        group.wait_for_all()
        return engine.copy_bandwidth() if self.rank == 0 else None

    def _ready(
        self,
        engine: "Engine",
        why: str,
        device: Any,
        seconds: float,
        bandwidth: float | None,
        room: dict[str, Any],
    ) -> protocol.RankReady:
        return protocol.RankReady(
            rank=self.rank,
            engine=engine.name,
            engine_reason=why,
            seconds=round(seconds, 3),
            bandwidth_bytes_per_second=bandwidth,
            **room,
            **device_facts(device, engine.devices, self.config, self.local_rank),
            **engine.describe(),
        )

    def _gather(self, accelerator: Any, digests: list[tuple[int, str]]) -> None:
        from accelerate.utils import gather_object

        # gather_object flattens one level: each rank passes a list, the main process gets one list of all.
        gathered = gather_object(digests)
        if accelerator.is_main_process:
            for start in range(0, len(gathered), GATHER_PART):
                self.link.send(protocol.Gathered(records=gathered[start : start + GATHER_PART], last=False))
            self.link.send(protocol.Gathered(records=[], last=True))


def _hub_folder(model: str, *, fetch: bool) -> str:
    """The folder of a hub model in the local cache. Without `fetch`, the hub is not asked."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py"]
    folder = snapshot_download(model, allow_patterns=patterns, local_files_only=not fetch)
    if fetch and not any(Path(folder).glob("*.safetensors")):
        folder = snapshot_download(model, allow_patterns=[*patterns, "*.bin"])
    return str(folder)


def _import_without_collecting() -> None:
    """Import the engines and all they need: two thousand modules, which stay.

    The garbage collector would walk them over and over while they come in, and find nothing.
    """
    gc.disable()
    try:
        # `from_pretrained` would import these, and loading would look slow.
        import transformers.modeling_layers
        import transformers.modeling_utils  # noqa: F401

        import rankdeck.runner.engine.choose
        import rankdeck.runner.rank.work  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    main()
