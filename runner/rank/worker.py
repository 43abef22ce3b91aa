"""One rank, started by `accelerate launch -m runner.rank.worker`: join, load, report ready, generate what it is given.

Knows the order in which a rank lives and what it reports. Which prompts it gets is the supervisor's
affair; how a batch is generated the engine's. torch and its like are imported only after the rank
has joined the socket, so that the dashboard sees it at once.
"""

import argparse
import faulthandler
import gc
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.machine import placement, processes
from rankdeck.runner.protocol import Work, record_digest
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.rank.link import Link

if TYPE_CHECKING:
    from rankdeck.runner.engine.base import Engine

GATHER_PART = 1000
GROUP_TIMEOUT_DAYS = 7
"""A large model's download takes as long as it takes; a rank that died is noticed by the supervisor, not by this."""


def main() -> NoReturn:
    """Be a rank until told to leave. The exit status is 0 only then."""
    processes.end_with_parent()
    options = _options()
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    _log_to(options.run_dir / f"rank-{rank}.log")
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
        # The interpreter's own way out can hang in a broken process group; everything is said and flushed.
        sys.stderr.flush()
        os._exit(1)
    link.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is said, and the group was left: taking the interpreter apart would only make people wait.
    os._exit(0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rankdeck.runner.rank.worker")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    return parser.parse_args()


def _log_to(path: Path) -> None:
    """Send this process's output, C libraries' and crash traces included, to a file of its own."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()


class _Rank:
    def __init__(self, options: argparse.Namespace, rank: int, world_size: int, link: Link) -> None:
        self.options, self.rank, self.world_size, self.link = options, rank, world_size, link
        run = run_directory.read_run_file(options.run_dir)
        self.config: RunConfig = run.config
        self.prompts = run.prompts
        self.digests: list[tuple[int, str]] = []
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if self.config.device == "cuda":
            # Before torch is there: once CUDA has started, it is too late.
            os.environ.update(placement.own_environment(os.environ, self.local_rank, self.config.gpus_per_rank))

    def live(self) -> None:
        started = time.monotonic()
        choose, loading = _import_engines()
        self._phase("joining")
        accelerator = self._join()
        self._phase("loading")
        model_path = self._model_files(accelerator)
        parts = loading.load(self.config, model_path, accelerator.device)
        self._phase("warming up")
        # Before a continuous engine takes its cache: what that leaves over says nothing of how many rows fit.
        room = loading.free_and_total(loading.devices_of(parts.model, parts.device))
        loaded, why = choose.choose(self.config, parts)
        if self.rank == 0 and why:
            self.link.send(protocol.LogLine(source=f"rank {self.rank}", text=f"{loaded.name} engine: {why}"))
        if self.config.dispatch == "split":
            self._announce_share(accelerator)
        seconds = time.monotonic() - started
        bandwidth = self._copy_bandwidth(loaded, accelerator)
        self.link.send(self._ready(loaded, why, accelerator.device, seconds, bandwidth, room))
        accelerator.wait_for_everyone()
        gather = self._work(loaded)
        if gather:
            self._gather(accelerator)
        # Without this the process group's threads may abort the process on its way out.
        accelerator.end_training()

    def _phase(self, phase: protocol.RankPhaseName) -> None:
        self.link.send(protocol.RankPhase(rank=self.rank, phase=phase))

    def _join(self) -> Any:
        from datetime import timedelta

        import torch
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs, set_seed

        if cores := os.environ.get("RANKDECK_CORES"):
            torch.set_num_threads(max(1, int(cores) // self.world_size))
        handlers = []
        if self.world_size > 1:
            # gloo even on GPUs: generating needs no collective, so NCCL would only cost memory and start-up time.
            handlers = [InitProcessGroupKwargs(backend="gloo", timeout=timedelta(days=GROUP_TIMEOUT_DAYS))]
        self._take_device()
        accelerator = Accelerator(kwargs_handlers=handlers)
        if self.config.device == "cuda" and accelerator.device.type != "cuda":
            raise RuntimeError(
                f"torch {torch.__version__} sees no CUDA device; install a CUDA build of it, or use --device cpu"
            )
        if self.config.seed is not None:
            set_seed(self.config.seed, device_specific=True)
        return accelerator

    def _take_device(self) -> None:
        """Make this rank's GPU torch's current one, and the one that accelerate takes."""
        import torch

        per_rank = self.config.gpus_per_rank
        if self.config.device != "cuda" or not torch.cuda.is_available():
            return
        seen = torch.cuda.device_count()
        if seen < per_rank:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            raise RuntimeError(
                f"torch sees {seen} of the {per_rank} GPUs of this rank (CUDA_VISIBLE_DEVICES={visible})"
            )
        index = placement.device_index(self.local_rank, seen, per_rank)
        os.environ[placement.OWN_DEVICE] = f"cuda:{index}"
        torch.cuda.set_device(index)

    def _model_files(self, accelerator: Any) -> str:
        """The model's folder. Of a hub id the local main process fetches the files, the others wait for it."""
        model: str = self.options.model
        if Path(model).is_dir():
            return model
        with accelerator.local_main_process_first():
            return _hub_folder(model, fetch=accelerator.is_local_main_process)

    def _announce_share(self, accelerator: Any) -> None:
        with accelerator.split_between_processes(list(range(self.prompts))) as share:
            # Older accelerate gives the last prompt again to a rank beyond the last share.
            beyond = accelerator.process_index >= self.prompts
            start, stop = (share[0], share[-1] + 1) if share and not beyond else (0, 0)
        self.link.send(protocol.Share(rank=self.rank, start=start, stop=stop))

    def _copy_bandwidth(self, loaded: "Engine", accelerator: Any) -> float | None:
        """In a sweep, on rank 0 while the others do nothing: memory bandwidth of its device, in bytes/s."""
        if self.config.sweep is None:
            return None
        accelerator.wait_for_everyone()
        return loaded.copy_bandwidth() if self.rank == 0 else None

    def _ready(
        self, loaded: "Engine", why: str, device: Any, seconds: float, bandwidth: float | None, room: tuple[int, int]
    ) -> protocol.RankReady:
        import torch

        facts: dict[str, Any] = {}
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            uuids = [str(getattr(torch.cuda.get_device_properties(one), "uuid", "")) for one in loaded.devices]
            facts = {
                "device_name": properties.name,
                "device_uuid": uuids[0] or None,
                "device_uuids": uuids if len(uuids) > 1 and all(uuids) else [],
            }
            if hasattr(properties, "pci_bus_id"):
                facts["pci_bus_id"] = (
                    f"{properties.pci_domain_id:08x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
                )
        else:
            facts = {"device_name": _cpu_name(), "threads": torch.get_num_threads()}
        return protocol.RankReady(
            rank=self.rank,
            device=placement.device_text(str(device), self.local_rank, self.config.gpus_per_rank)
            if device.type == "cuda"
            else device.type,
            engine=loaded.name,
            engine_reason=why,
            seconds=round(seconds, 3),
            bandwidth_bytes_per_second=bandwidth,
            memory_free_bytes=room[0],
            memory_total_bytes=room[1],
            **facts,
            **loaded.describe(),
        )

    def _work(self, loaded: "Engine") -> bool:
        """Generate until told to leave; returns whether the ranks are to gather."""
        from rankdeck.runner.engine.base import free_memory, is_out_of_memory
        from rankdeck.runner.engine.rows import Cancelled

        leave: protocol.Leave | None = None
        failed_stream = 0
        while leave is None and isinstance(order := self.link.next_order(), Work):
            if order.stream == failed_stream:
                continue  # sent before its failure was heard: its prompts have gone back to the queue
            try:
                leave = self._do(loaded, order)
            except Cancelled:
                continue
            except Exception as error:
                out_of_memory = is_out_of_memory(error)
                if _fatal(error) and not out_of_memory:
                    raise
                traceback.print_exc()
                failed_stream = order.stream or 0
                if out_of_memory:
                    error.__traceback__ = None  # it holds the batch's tensors
                    free_memory(loaded.device)
                self.link.send(
                    protocol.BatchFailed(
                        rank=self.rank,
                        batch=order.stream or order.batch,
                        kind="out_of_memory" if out_of_memory else "error",
                        error=f"{type(error).__name__}: {error}",
                    )
                )
        loaded.close()
        return (leave or cast(protocol.Leave, order)).gather

    def _do(self, loaded: "Engine", order: Work) -> protocol.Leave | None:
        from rankdeck.runner.engine.continuous import ContinuousEngine
        from rankdeck.runner.rank.continuous_rank import ContinuousRank

        self._say_notes(loaded)
        closed = order.measure or not order.keep or order.max_new_tokens is not None
        if closed or not isinstance(loaded, ContinuousEngine):
            self._batch(loaded, order)
            return None
        flow = ContinuousRank(
            self.rank,
            loaded,
            self.link,
            send=self._send_records,
            go_on=lambda newest: self._go_on(loaded, newest),
            longest=self.config.new_tokens,
        )
        return flow.run(order)

    def _go_on(self, loaded: "Engine", batch: int) -> bool:
        """Called at every decode step: take the share of the cores that was last given; whether to go on."""
        cores, sharing = os.environ.get("RANKDECK_CORES"), self.link.sharing
        if loaded.device.type == "cpu" and cores and sharing:
            loaded.use_threads(max(1, int(cores) // sharing))
        return not self.link.cancelled(batch)

    def _batch(self, loaded: "Engine", work: Work) -> None:
        def on_step(progress: Any) -> None:
            self.link.progress(
                protocol.StepsInFlight(
                    rank=self.rank, batch=work.batch, step=progress.step, output_tokens=progress.output_tokens
                )
            )

        def on_records(records: list[protocol.OutputRecord]) -> None:
            if work.keep:
                self._send_records(work.batch, records)

        self._go_on(loaded, work.batch)
        done = loaded.generate(
            work.prompts,
            on_step,
            lambda: not self._go_on(loaded, work.batch),
            on_records,
            measure=work.measure,
            max_new_tokens=work.max_new_tokens,
        )
        self.link.send(protocol.BatchFinished(rank=self.rank, batch=work.batch, result=done.result))
        self._say_notes(loaded)

    def _say_notes(self, loaded: "Engine") -> None:
        for text in loaded.notes:
            self.link.send(protocol.LogLine(source=f"rank {self.rank}", text=text))
        loaded.notes.clear()

    def _send_records(self, batch: int, records: list[protocol.OutputRecord]) -> None:
        records = [msgspec.structs.replace(record, rank=self.rank, batch=batch) for record in records]
        if self.config.dispatch == "split":
            self.digests.extend((record.index, record_digest(record)) for record in records)
        self.link.send(*(protocol.Output(record=record) for record in records))

    def _gather(self, accelerator: Any) -> None:
        from accelerate.utils import gather_object

        # gather_object flattens one level: each rank passes a list, the main process gets one list of all.
        gathered = gather_object(self.digests)
        if accelerator.is_main_process:
            for start in range(0, len(gathered), GATHER_PART):
                self.link.send(protocol.Gathered(records=gathered[start : start + GATHER_PART], last=False))
            self.link.send(protocol.Gathered(records=[], last=True))


def _hub_folder(model: str, *, fetch: bool) -> str:
    """The folder of a hub model in the local cache. Unless it is to `fetch`, a rank asks the hub nothing."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    folder = snapshot_download(model, allow_patterns=patterns, local_files_only=not fetch)
    if fetch and not any(Path(folder).glob("*.safetensors")):
        folder = snapshot_download(model, allow_patterns=[*patterns, "*.bin"])
    return str(folder)


def _import_engines() -> tuple[Any, Any]:
    """The engines, loading and all they need, imported at once: two thousand modules, which are there to stay.

    The garbage collector would walk them over and over while they come in, and find nothing.
    """
    gc.disable()
    try:
        # What `from_pretrained` would import otherwise, and loading would seem slow.
        import transformers.modeling_layers
        import transformers.modeling_utils  # noqa: F401

        from rankdeck.runner.engine import choose, loading
    finally:
        gc.freeze()
        gc.enable()
    return choose, loading


def _cpu_name() -> str:
    """What the processor calls itself (Linux), else `CPU`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "CPU"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "CPU") or "CPU"


def _fatal(error: Exception) -> bool:
    """After these the device's context is gone, and every later batch would fail as well."""
    text = str(error)
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in text or "device-side assert" in text


if __name__ == "__main__":
    main()
