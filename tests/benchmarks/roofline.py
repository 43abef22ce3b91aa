"""How near a decode step comes to what this machine can do: memory bandwidth and matrix rate, both measured.

    python -m tests.benchmarks.roofline [--ranks 2] [--rows 1,4,16,50,100] [--new-tokens 32] [--device cpu|cuda]

All is measured with `--ranks` processes side by side, each with its share of the cores, on the demo model or `--model`.
The ceilings: bytes/s of a sum over a large array (reads alone), of a copy (read and written) and of a matrix times a
vector, the best of them as the peak; FLOP/s of matrix products of this model's shapes, the best over shapes.

What decoding reaches, at fixed length with `rows` prompts per rank, is the mean over its decode steps of
- bytes: the weights once, and the keys and values of every token so far (MBU: Databricks, "LLM Inference Performance
  Engineering", 2023), over seconds. Every process reads weights of its own;
- FLOP: 2 x the weights it reads x rows (Kaplan et al., "Scaling Laws for Neural Language Models", 2020, section 2.1:
  a multiplication and an addition for each weight and token), over seconds. Attention's own are left out.

The ceiling that matters is the nearer one, of which a larger share is reached: `nearer_roof` and `share_of_roof`.
`--rows 1,16,64,256` takes some minutes on two cores; where rows are many, each has fewer new tokens than asked for.
The last line is one JSON object.
"""

import argparse
import gc
import multiprocessing
import os
import queue
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from rankdeck.runner.launching.environment import rank_environment
from rankdeck.runner.machine import processes
from rankdeck.runner.protocol import Prompt
from rankdeck.runner.protocol.config import RunConfig
from tests.benchmarks import sides

MEMORY_BYTES = 512 * 2**20
"""Of the large array of each process: many times any cache."""

SECONDS = 1.0
"""A ceiling is the best of what fits in here: a machine that others use is slow at times, never too fast."""

MOST_SLOTS = 2048
"""Rows x new tokens of one batch: a step of many rows takes longer, and fewer steps measure it as well."""

LEAST_TOKENS = 8
"""Of each row, however many there are."""

LARGE = 2048
"""Rows of the largest matrix product beside the decode step's own: a prefill's."""


def best_seconds(work: Callable[[], Any], synchronise: Callable[[], None]) -> float:
    """The shortest of many calls, the first left out."""
    work()
    synchronise()
    best, deadline = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < deadline or best == float("inf"):
        started = time.perf_counter()
        work()
        synchronise()
        best = min(best, time.perf_counter() - started)
    return best


def bandwidths(device: Any, dtype: Any, synchronise: Callable[[], None]) -> dict[str, float]:
    """Bytes/s, by how they were moved."""
    import torch

    count = MEMORY_BYTES // dtype.itemsize
    source = torch.ones(count, dtype=dtype, device=device)
    target = torch.empty_like(source)
    width = 4096
    matrix = source[: count // width * width].view(-1, width)
    vector = torch.ones(width, dtype=dtype, device=device)
    return {
        "sum": MEMORY_BYTES / best_seconds(source.sum, synchronise),
        "copy": 2 * MEMORY_BYTES / best_seconds(lambda: target.copy_(source), synchronise),
        "matrix x vector": matrix.numel() * dtype.itemsize / best_seconds(lambda: matrix @ vector, synchronise),
    }


def matrix_rates(
    model: Any, rows: list[int], device: Any, dtype: Any, synchronise: Callable[[], None]
) -> dict[str, float]:
    """FLOP/s of products of [rows, inner] and [inner, outer], for the model's own layers: packed where those are."""
    import torch

    from rankdeck.runner.engine.packed_linear import PackedLinear

    packed = any(isinstance(module, PackedLinear) for module in model.modules())
    text = model.config.get_text_config()
    layers = {(text.hidden_size, text.intermediate_size), (text.hidden_size, text.vocab_size)}
    rates = {}
    for inner, outer in sorted(layers):
        layer: Any = torch.nn.Linear(inner, outer, bias=False, dtype=dtype, device=device)
        if packed:
            layer = PackedLinear(layer, shared=False)
        for height in sorted({*rows, LARGE}):
            batch = torch.ones(height, inner, dtype=dtype, device=device)
            with torch.inference_mode():
                seconds = best_seconds(lambda batch=batch, layer=layer: layer(batch), synchronise)
            rates[f"{height} x {inner} x {outer}"] = 2 * height * inner * outer / seconds
    return rates


def measure(options: argparse.Namespace, path: str, barrier: threading.Barrier, told: Any) -> None:
    """One process's figures, every measurement begun together with the others."""
    import torch

    from rankdeck.runner.engine import choose, loading

    device = torch.device(options.device)

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def together(work: Callable[[], Any]) -> Any:
        barrier.wait()
        return work()

    torch.set_num_threads(max(1, processes.usable_cores() // options.ranks))
    rows = [int(number) for number in options.rows.split(",")]
    config = RunConfig(
        prompts="-", device=options.device, max_new_tokens=options.new_tokens, ignore_eos=True, engine="static"
    )
    loaded, _ = choose.choose(config, loading.load(config, path, device))
    dtype = loaded.model.dtype
    described = loaded.describe()
    figures: dict[str, Any] = {
        "described": described,
        "dtype": str(dtype).removeprefix("torch."),
        "bandwidth": together(lambda: bandwidths(device, dtype, synchronise)),
        "flops": together(lambda: matrix_rates(loaded.model, rows, device, dtype, synchronise)),
        "decode": {},
    }
    gc.collect()
    stories = sides.STORIES.read_text(encoding="utf-8").splitlines()
    for count in rows:
        prompts = [Prompt(index=index, id=str(index), text=stories[index % len(stories)]) for index in range(count)]
        measured = []
        tokens = tokens_of(count, options.new_tokens)
        for _ in range(options.repeats):
            result = together(
                lambda prompts=prompts, tokens=tokens: loaded.generate(prompts, measure=True, max_new_tokens=tokens)
            ).result
            assert result.rows == count, result
            steps = result.steps - 1
            # The cache grows by a token per row and step: its mean is halfway.
            context = result.slots - result.rows * result.steps / 2
            read = steps * (described["weight_read_bytes"] + described["kv_bytes_per_token"] * context)
            flops = steps * 2 * described["weight_read_bytes"] / dtype.itemsize * count
            measured.append(
                {
                    "step_seconds": result.decode_seconds / steps,
                    "bytes_per_second": read / result.decode_seconds,
                    "flops_per_second": flops / result.decode_seconds,
                }
            )
        figures["decode"][count] = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
    told.put(figures)


def tokens_of(rows: int, asked: int) -> int:
    """New tokens of each of so many rows: those asked for, fewer where rows are many."""
    return min(asked, max(LEAST_TOKENS, MOST_SLOTS // rows))


def added(figures: list[dict[str, Any]], name: str) -> dict[str, float]:
    """What all processes reach together."""
    return {key: sum(one[name][key] for one in figures) for key in figures[0][name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder  [default: the demo model]")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: all processes on the one GPU")
    parser.add_argument("--ranks", type=int, default=min(2, processes.usable_cores()))
    parser.add_argument("--rows", default="1,4,16,50,100", help="prompts per rank and batch")
    parser.add_argument("--new-tokens", type=int, default=32, help="of each row; fewer where rows are many")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.new_tokens < 2:
        parser.error("--new-tokens: a decode step follows the first token, so at least 2")
    path = options.model or sides.demo_model()
    # As the ranks are launched: the same threads, waiting in the same way.
    os.environ |= rank_environment(
        os.environ, options.ranks, options.device == "cpu", processes.usable_cores(), expandable_segments=True
    )
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(options.ranks), context.Queue()
    ranks = [context.Process(target=measure, args=(options, path, barrier, told)) for _ in range(options.ranks)]
    for rank in ranks:
        rank.start()
    try:
        figures = [_next(told, ranks) for _ in ranks]
    finally:
        for rank in ranks:
            rank.join(5)
            rank.kill()
    bandwidth, flops = added(figures, "bandwidth"), added(figures, "flops")
    peak_bytes, peak_flops = max(bandwidth.values()), max(flops.values())
    sides.say(f"peak {peak_bytes / 1e9:.1f} GB/s, {peak_flops / 1e9:.0f} GFLOP/s ({figures[0]['dtype']})")
    decode = {}
    for count in figures[0]["decode"]:
        of_all = [one["decode"][count] for one in figures]
        reached_bytes = sum(one["bytes_per_second"] for one in of_all)
        reached_flops = sum(one["flops_per_second"] for one in of_all)
        shares = {"bandwidth": reached_bytes / peak_bytes, "matrix rate": reached_flops / peak_flops}
        decode[count] = {
            "new_tokens": tokens_of(count, options.new_tokens),
            "step_ms": round(1000 * statistics.fmean(one["step_seconds"] for one in of_all), 2),
            "tokens_per_second": round(sum(count / one["step_seconds"] for one in of_all), 1),
            "gigabytes_per_second": round(reached_bytes / 1e9, 2),
            "mbu": round(shares["bandwidth"], 3),
            "gigaflops_per_second": round(reached_flops / 1e9, 1),
            "share_of_matrix_rate": round(shares["matrix rate"], 3),
            "share_of_roof": round(max(shares.values()), 3),
            "nearer_roof": max(shares, key=shares.__getitem__),
        }
        sides.say(f"{count} rows per rank: {decode[count]}")
    sides.finish(
        "roofline",
        peak_gigabytes_per_second=round(peak_bytes / 1e9, 2),
        peak_gigaflops_per_second=round(peak_flops / 1e9, 1),
        gigabytes_per_second={name: round(rate / 1e9, 2) for name, rate in bandwidth.items()},
        gigaflops_per_second={name: round(rate / 1e9, 1) for name, rate in flops.items()},
        decode=decode,
        weight_megabytes=round(figures[0]["described"]["weight_read_bytes"] / 1e6, 1),
        dtype=figures[0]["dtype"],
        threads_per_rank=max(1, processes.usable_cores() // options.ranks),
        **{name: value for name, value in vars(options).items() if name != "model"},
        model=options.model or "demo",
    )


def _next(told: Any, ranks: list[Any]) -> dict[str, Any]:
    """A process's figures; what it died of is on stderr."""
    while True:
        try:
            figures: dict[str, Any] = told.get(timeout=1)
            return figures
        except queue.Empty:
            if any(rank.exitcode not in (None, 0) for rank in ranks):
                raise SystemExit("a process ended before it had measured anything") from None


if __name__ == "__main__":
    main()
