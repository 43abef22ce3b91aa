"""One rank, in a process of its own: it joins, loads, reports ready, works and leaves.

Knows the order of these and what each reports. Which prompts a rank gets is the supervisor's business. With `pull` each
rank is a launch of one to accelerate, process 0 of 1: which rank this is, only its order says.
"""

import gc
import hashlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.launching.scratch import scratch_of
from rankdeck.runner.protocol import StartRank
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.rank import group
from rankdeck.runner.rank.device import device_facts, gpus_of_run, hide_other_gpus, hold_to_share, take_device
from rankdeck.runner.rank.link import Link
from rankdeck.runner.rank.log import log_to
from rankdeck.runner.rank.model_files import model_folder
from rankdeck.runner.rank.options import Options, read_options

if TYPE_CHECKING:
    import torch

    from rankdeck.runner.engine.base import Engine
    from rankdeck.runner.engine.loading import Loaded
    from rankdeck.runner.engine.memory import Share

GATHER_PART = 1000
ORDER = "--order"
GROUP_TIMEOUT = timedelta(days=7)
"""Ranks wait for each other through any download; that a rank has died is for the supervisor to notice."""


def live(options: Options, order: StartRank) -> NoReturn:
    """Be a rank until told to leave. The exit status is 0 only then."""
    rank = order.rank
    log_to(options.run_dir / f"rank-{rank}.log")
    link = Link(options.socket)  # from here on, this process ends when the supervisor does
    link.send(protocol.RankHello(rank=rank, world_size=order.world_size, attempt=order.attempt))
    try:
        _Rank(options, order, link).live()
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


def begin_anew(options: Options, order: StartRank) -> NoReturn:
    """Be a rank in a new program, which knows nothing of what this process was."""
    arguments = [*options.arguments(), ORDER, msgspec.json.encode(order).decode()]
    os.execv(sys.executable, [sys.executable, "-m", "rankdeck.runner.rank.worker", *arguments])


class _Rank:
    def __init__(self, options: Options, order: StartRank, link: Link) -> None:
        self.options, self.link = options, link
        self.rank, self.world_size, self.store = order.rank, order.world_size, order.store
        self.attempt, self.engine_hint = order.attempt, order.engine_hint
        run = run_directory.read_run_file(options.run_dir)
        self.config: RunConfig = run.config
        self.prompts = run.prompts
        self.by_vllm = options.by_vllm
        hide_other_gpus(self.config, self.rank, alone=self.by_vllm)

    def live(self) -> None:
        started = time.monotonic()
        import_engines(lambda: self._phase("importing"), vllm=self.by_vllm)
        from rankdeck.runner.rank.work import RankWork

        self._require_names()
        self._phase("joining")
        accelerator = self._join()
        share = None
        if not self.by_vllm:  # which takes what it is told to, and has its GPU to itself
            share = hold_to_share(self.config, self.rank, accelerator.device, self.link.meet)
        self._phase("loading")
        model_path = model_folder(self.options.model, self.options.run_dir)
        if self.by_vllm:
            loaded, engine, why, room = self._by_vllm(model_path, accelerator.device)
        else:
            loaded, engine, why, room = self._by_ourselves(model_path, accelerator.device, share)
        if why and (self.rank == 0 or self.config.engine not in ("auto", engine.name)):
            self.link.send(protocol.LogLine(source=f"rank {self.rank}", text=f"{engine.name} engine: {why}"))
        if self.config.dispatch == "split":
            self._announce_share(accelerator)
        seconds = time.monotonic() - started
        self._tell_ready(self._ready(engine, why, accelerator.device, seconds, room), loaded)
        work = RankWork(self.rank, self.config, engine, self.link)
        if work.run():
            self._gather(accelerator, work.digests)
        if self.by_vllm:
            engine.leave()  # with the process group, which is its own
        else:
            # Without this the process group's threads may abort the process on its way out.
            accelerator.end_training()

    def _require_names(self) -> None:
        """Raise RuntimeError where the packages that are installed lack something that the engines use."""
        if self.by_vllm:
            from rankdeck.runner.engine.vllm import names

            names.require()
        else:
            from rankdeck.runner.engine import private_names

            private_names.require_static()

    def _by_ourselves(
        self, model_path: str, device: "torch.device", share: "Share | None"
    ) -> "tuple[Loaded, Engine, str, dict[str, Any]]":
        """The loaded model, its engine and why it is this one, and the memory there is, as fields of RankReady."""
        from rankdeck.runner.engine import choose, loading, memory
        from rankdeck.runner.engine.trials import findings

        there = {"ranks": self.config.ranks, "gpus": gpus_of_run(self.config)}
        own = loading.devices_for(self.config, device)
        with memory.explained("loading the model", own, share, **there):
            loaded = loading.load(self.config, model_path, device, findings.usual_folder())
        self._phase("warming up")
        devices = loading.devices_of(loaded.model, loaded.device)
        # Before a continuous engine takes its cache: what is free afterwards says nothing about how many rows fit.
        room = self._room(devices, share)
        with memory.explained("warming up", devices, share, **there):
            engine, why = choose.choose(self.config, loaded, self.prompts, self.engine_hint)
        if self.config.gpu_memory_share is not None:
            engine.add_notes([f"--gpu-memory-share has no effect on the {engine.name} engine, only on vLLM"])
        return loaded, engine, why, room

    def _by_vllm(self, model_path: str, device: "torch.device") -> "tuple[Loaded, Engine, str, dict[str, Any]]":
        """The same, of vLLM, which loads the weights itself."""
        from rankdeck.runner.engine import loading, memory
        from rankdeck.runner.engine.vllm.engine import VllmEngine
        from rankdeck.runner.engine.vllm.outline import outline

        own = loading.devices_for(self.config, device)
        # Of several GPUs only the first has a context here; asking for the others' memory would make one on each.
        room = self._room(own, None) if len(own) == 1 else {}
        with memory.explained("vLLM", own, None, ranks=self.config.ranks, gpus=gpus_of_run(self.config)):
            loaded = outline(self.config, model_path, device)
            scratch = scratch_of(self.options.socket, self.rank)
            engine = VllmEngine(loaded, self.config, model_path, scratch, self._phase)
            engine.warm_up()
        if "memory_free_bytes" in room:  # with the model, as the other engines count it, and without the cache
            room["memory_free_bytes"] = max(0, room["memory_free_bytes"] - engine.describe()["parameter_bytes"])
        chosen = self.config.engine == "auto" and self.engine_hint is not None
        return loaded, engine, self.engine_hint.why if chosen and self.engine_hint is not None else "", room

    def _phase(self, phase: protocol.RankPhaseName) -> None:
        self.link.send(protocol.RankPhase(rank=self.rank, phase=phase))

    def _join(self) -> Any:
        import torch

        if cores := os.environ.get("RANKDECK_CORES"):
            torch.set_num_threads(max(1, int(cores) // self.world_size))
        remark = take_device(self.config, self.rank, alone=self.by_vllm)
        if remark is not None and self.rank == 0:
            self.link.send(protocol.LogLine(source=f"rank {self.rank}", text=remark))
        accelerator = group.join(self.rank, self.world_size, self.store, GROUP_TIMEOUT)
        seed_rank(self.config.seed, self.rank, self.attempt)
        return accelerator

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
            beyond = self.rank >= self.prompts
            start, stop = (share[0], share[-1] + 1) if share and not beyond else (0, 0)
        self.link.send(protocol.Share(rank=self.rank, start=start, stop=stop))

    def _tell_ready(self, ready: protocol.RankReady, loaded: "Loaded") -> None:
        """Report ready; rank 0 with the limits of its device, measured once the others have nothing to do but wait.

        They wait as ready ranks: nobody gets work before rank 0 is ready too.
        """
        if self.rank != 0:
            self.link.arrive(self.rank, "limits")
            self.link.send(ready)
            return
        from rankdeck.runner.engine.trials import limits

        self.link.meet(self.rank, "limits")
        found = limits.measured(loaded.device, loaded.model.dtype)
        self.link.send(msgspec.structs.replace(ready, **found._asdict()))

    def _ready(
        self, engine: "Engine", why: str, device: Any, seconds: float, room: dict[str, Any]
    ) -> protocol.RankReady:
        return protocol.RankReady(
            rank=self.rank,
            engine=engine.name,
            engine_reason=why,
            **self._lead(engine.name),
            seconds=round(seconds, 3),
            **room,
            **device_facts(device, engine.devices, self.config, self.rank, alone=self.by_vllm),
            **engine.describe(),
        )

    def _lead(self, engine: str) -> dict[str, Any]:
        """How far this engine was ahead in earlier runs, as fields of RankReady, if that is why it was taken."""
        hint = self.engine_hint
        if self.config.engine != "auto" or hint is None or hint.engine != engine:
            return {}
        return {"engine_lead": hint.lead, "engine_over": hint.over}

    def _gather(self, accelerator: Any, digests: list[tuple[int, str]]) -> None:
        from accelerate.utils import gather_object

        # gather_object flattens one level: each rank passes a list, and rank 0 tells of the one list of all.
        gathered = gather_object(digests)
        if self.rank == 0:
            for start in range(0, len(gathered), GATHER_PART):
                self.link.send(protocol.Gathered(records=gathered[start : start + GATHER_PART], last=False))
            self.link.send(protocol.Gathered(records=[], last=True))


def seed_rank(seed: int | None, rank: int, attempt: int = 1) -> None:
    """Seed every random generator of this process: by the run's `seed`, each rank differently, or else by chance.

    For whatever draws from them: the continuous engine and a model's own code, not the static engine. The first rank
    has the seed itself; the others have none that another run would name, since two runs with neighbouring seeds are to
    be two samples. A rank that is launched
    again, after a loss or a resume, goes on with other random numbers: those it had are in answers already. A forked
    process has its parent's random numbers before it, and so have all its siblings.
    """
    from accelerate.utils import set_seed

    if seed is None:
        own = int.from_bytes(os.urandom(4))
    elif (rank, attempt) == (0, 1):
        own = seed
    else:
        own = int.from_bytes(hashlib.sha256(f"{seed} {rank} {attempt}".encode()).digest()[:4])
    set_seed(own)


def import_engines(begin: Callable[[], None] = lambda: None, *, vllm: bool = False) -> None:
    """Import the engines and all they need: two thousand modules, which stay. Calls `begin` if that is still to do.

    What vLLM needs is imported only with `vllm`.

    The garbage collector would walk them over and over while they come in, and find nothing.
    """
    if "rankdeck.runner.rank.work" in sys.modules:
        return
    begin()
    gc.disable()
    try:
        # `from_pretrained` would import these, and loading would look slow.
        import transformers.modeling_layers
        import transformers.modeling_utils  # noqa: F401

        import rankdeck.runner.engine.choose
        import rankdeck.runner.rank.work

        if vllm:
            import rankdeck.runner.engine.vllm.engine  # noqa: F401
            from rankdeck.runner.engine.vllm import names

            names.require()
    finally:
        gc.freeze()
        gc.enable()


def main() -> NoReturn:
    """Be the rank that the command line says: where a rank cannot be forked."""
    live(read_options(sys.argv[1:]), msgspec.json.decode(sys.argv[sys.argv.index(ORDER) + 1], type=StartRank))


if __name__ == "__main__":
    main()
