"""How much memory a run will need, before anything is loaded. Pure: model, settings and free memory come in as values.

Per rank:

    weights      = parameters x bytes of the dtype; a quantised checkpoint as it is stored. On a CPU a checkpoint of
                   the dtype asked for is mapped, not read: all ranks share its pages, which are counted once
    packed       = on a CPU a second copy of the linear layers' weights (runner.engine.packed_linear)
    keys, values = 2 x layers x key-value heads x head size x bytes x (prompt tokens + new tokens) x batch size
                   (Pope et al., "Efficiently scaling transformer inference", 2022, section 2.1)
    working      = the larger of one layer's activations in the prefill and the logits of the last position in float32,
                   twice: a result stands beside what it is computed from
    process      = Python, torch and transformers; on a GPU the CUDA context and the libraries' workspaces

An estimate: allocators round up and fragment, and attention may need more. So only what cannot be is refused, by
`runner.inputs.impossible_run`.
"""

from typing import NamedTuple

from rankdeck.runner.inputs.impossible_run import Weights, why_impossible, why_too_many_ranks
from rankdeck.runner.inputs.memory_room import NO_ROOM, Room, Share, gib
from rankdeck.runner.inputs.model_config import ModelShape
from rankdeck.runner.inputs.step_sizes import full_bucket, row_bucket, slot_bucket
from rankdeck.runner.protocol.config import CONTINUOUS_ENGINES, Problem, RunConfig
from rankdeck.runner.protocol.first_batch import first_batch

CPU_PROCESS_BYTES = int(0.1 * 2**30)
"""Ranks are forked and share what was imported. Measured: a static rank of the demo model on a CPU has 0.64 GiB of its
own, of which 0.5 GiB are the packed weights."""

PARENT_BYTES = int(0.3 * 2**30)
"""What ranks share of the host, once: the launcher, their parent and what that has imported (measured)."""

SURE_PROCESS_BYTES = int(0.05 * 2**30)
"""What a rank's process takes of the host at least, beside its weights: measured 0.014 GiB with a tiny model, before
its first batch."""

CUDA_PROCESS_BYTES = int(0.6 * 2**30)
"""A CUDA context and the workspaces of cuBLAS on current GPUs; not measured."""

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "float8_e4m3fn": 1}
QUANTISED_BYTES = {"bnb-8bit": 1.0, "int8": 1.0, "bnb-4bit": 0.56}
"""Per parameter of a linear layer, with scales."""

# How the continuous engine sizes its cache on a CPU, before the first row: for this many rows of such prompts, or for
# one row of this many tokens, but within this share of the free memory (for all ranks together).
CONTINUOUS_ROWS = 128
CONTINUOUS_PROMPT_TOKENS = 256
CONTINUOUS_CONTEXT_TOKENS = 8192
CONTINUOUS_SHARE = 0.25

VLLM_SHARE = 0.9
"""Share of a GPU's memory that a rank of vLLM takes, unless --gpu-memory-share says otherwise; its own default, too."""

VLLM_CPU_BLOCK_TOKENS = 128
"""A row of vLLM takes keys and values in blocks of so many tokens on a CPU."""


class PromptSizes(NamedTuple):
    """How many prompts there are, and roughly how many tokens the longest has. `whole` is False if the file is longer
    than what was read of it."""

    prompts: int
    tokens: int
    whole: bool = True


class MemoryEstimate(NamedTuple):
    """What a rank needs, and whether the fullest device has it. All in bytes.

    `ranks` share that device, of which `free` bytes are free; None where unknown. `largest` is the largest
    batch size that would fit; None if not even one prompt does, or if that is unknown. `refusal` says why the run
    cannot be; None if it may, though it may not fit.
    """

    weights: int
    cache: int
    working: int
    process: int
    ranks: int
    on_gpu: bool
    devices: int
    needed: int
    free: int | None
    batch_size: int
    auto: bool
    largest: int | None
    refusal: Problem | None = None
    takes_the_rest: bool = False
    """Whether a rank takes all there is of its GPU, or `gpu_share` of it, for keys and values."""

    gpu_share: float | None = None
    shared: int = 0
    """The part of `weights` in pages of a mapped file: in every rank's figure, but in memory once."""

    @property
    def per_rank(self) -> int:
        return self.weights + self.cache + self.working + self.process

    @property
    def fits(self) -> bool:
        return self.free is None or self.needed <= self.free


def estimate(
    shape: ModelShape, config: RunConfig, prompts: PromptSizes, room: Room, whole: Room = NO_ROOM
) -> MemoryEstimate:
    """What a run with these settings needs, what is free (`room`), and what there is in all (`whole`)."""
    share = Share.of(config, room)
    on_gpu, ranks = share.on_gpu, share.all_ranks
    by_vllm, continuous = config.engine == "vllm", config.engine in CONTINUOUS_ENGINES
    bytes_each = _bytes_each(shape, config, on_gpu)
    weights, packed, mapped = _weights(shape, config, bytes_each), 0, 0
    if not on_gpu:
        packed = _packed(shape, config, bytes_each)
        mapped = 0 if by_vllm else _mapped(shape, config, weights)  # it copies them
    if packed and not mapped and not by_vllm:
        # Weights that were read into memory are freed as they are packed, except for the input embedding.
        weights = min(weights, shape.embedding_parameters * bytes_each)
    weights += packed
    process = CUDA_PROCESS_BYTES if on_gpu else CPU_PROCESS_BYTES

    free, gpu_share = share.least_of(room), None
    if by_vllm and on_gpu and free is not None and (of_all := share.least_of(whole)) is not None:
        gpu_share = config.gpu_memory_share or VLLM_SHARE
        free = min(free, int(gpu_share * of_all))

    per_token = 2 * shape.layers * shape.kv_heads * shape.head_size * bytes_each
    tokens = prompts.tokens + config.new_tokens
    if shape.context is not None:
        tokens = min(tokens, max(shape.context, config.new_tokens))
    in_steps = on_gpu and not continuous and config.decoding == "auto"
    row_cache = per_token * (slot_bucket(tokens) if in_steps else tokens)
    activations = prompts.tokens * (4 * shape.hidden + 2 * shape.intermediate) * bytes_each
    row_working = 2 * max(activations, 4 * shape.vocabulary)

    fixed = share.on_device(weights - mapped) + mapped + process * share.ranks + (0 if on_gpu else PARENT_BYTES)
    per_row = share.on_device(row_cache + row_working)
    cache_of_all = None
    if continuous and not on_gpu:
        page = VLLM_CPU_BLOCK_TOKENS if by_vllm else 1
        cache_of_all = _continuous_cpu_cache(shape, config, per_token, ranks, room.host, page)
        fixed, per_row = fixed + share.on_device(cache_of_all), share.on_device(row_working)
    largest, most_ranks = None, 0
    if free is not None:
        if free > fixed:
            largest = int((free - fixed) // max(1, per_row))
            unused = row_bucket(largest) - largest if in_steps else 0
            if fixed + per_row * largest + share.on_device(row_cache * unused) > free:
                largest = full_bucket(largest)
            largest = largest or None
        one = (fixed - mapped + per_row) / share.ranks
        most_ranks = max(0, int((free - mapped) // max(1, one)))
    batch_size = config.batch_size or first_batch(-(-prompts.prompts // ranks), on_gpu=on_gpu, most=largest).rows
    rows = row_bucket(batch_size) if in_steps else batch_size
    cache = row_cache * rows if cache_of_all is None else cache_of_all
    unknown = shape.quantised and shape.stored_bytes is None
    on_device = 0 if unknown else int(share.on_device(weights - mapped))
    return MemoryEstimate(
        weights=weights,
        cache=int(cache),
        working=int(row_working * batch_size),
        process=process,
        ranks=share.ranks,
        on_gpu=on_gpu,
        devices=share.devices,
        needed=int(fixed + per_row * batch_size + share.on_device(row_cache * (rows - batch_size))),
        free=free,
        batch_size=batch_size,
        auto=config.batch_size is None,
        largest=largest,
        refusal=_refusal(Weights(weights, on_device, most_ranks, shape.counted), share, room, whole),
        takes_the_rest=continuous and on_gpu,
        gpu_share=gpu_share,
        shared=mapped,
    )


def _refusal(weights: Weights, share: Share, room: Room, whole: Room) -> Problem | None:
    """Why the run cannot be: for its weights on a GPU and its processes on the host, or for both on the host."""
    if not share.on_gpu:
        return why_impossible(weights._replace(processes=share.ranks * SURE_PROCESS_BYTES), share, room, whole)
    return why_impossible(weights, share, room, whole) or refusal_of_ranks(share.all_ranks, room, whole)


def refusal_of_ranks(ranks: int, room: Room, whole: Room) -> Problem | None:
    """Why so many ranks cannot be, if nothing is known of their model; None if they may."""
    return why_too_many_ranks(ranks, SURE_PROCESS_BYTES, room, whole)


def doubt(found: MemoryEstimate) -> str | None:
    """What will probably not work, in a line; None if by estimate it will, or if a search finds what works."""
    if found.fits:
        return None
    if found.largest is None:
        figures = f"{gib(found.needed)} GiB are needed, {gib(found.free or 0)} are free"
        return f"the run would not fit in memory, by estimate, even at batch size 1: {figures}"
    if found.auto:
        return None
    return f"batch size {found.batch_size} would not fit in memory, by estimate: {found.largest} would"


def _bytes_each(shape: ModelShape, config: RunConfig, on_gpu: bool) -> int:
    if config.dtype != "auto":
        return DTYPE_BYTES[config.dtype]
    if not on_gpu:
        return DTYPE_BYTES["float32"]
    return DTYPE_BYTES.get(shape.dtype or "float16", 2)


def _weights(shape: ModelShape, config: RunConfig, bytes_each: int) -> int:
    if shape.stored_bytes is not None:
        return shape.stored_bytes
    if config.quantization in QUANTISED_BYTES:
        linear = max(0, shape.parameters - shape.embedding_parameters)
        kept = shape.parameters - linear
        return int(linear * QUANTISED_BYTES[config.quantization] + kept * bytes_each)
    return shape.parameters * bytes_each


def _mapped(shape: ModelShape, config: RunConfig, weights: int) -> int:
    """Bytes of the weights' file that CPU ranks map; 0 if the weights are converted or quantised."""
    converted = shape.dtype != ("float32" if config.dtype == "auto" else config.dtype)
    return 0 if converted or _quantised(shape, config) else weights


def _packed(shape: ModelShape, config: RunConfig, bytes_each: int) -> int:
    """Bytes of the linear layers' packed weights; 0 if they are not packed."""
    if _quantised(shape, config) or config.dtype not in ("auto", "float32", "bfloat16"):
        return 0
    return (shape.parameters - (0 if shape.tied else shape.embedding_parameters)) * bytes_each


def _quantised(shape: ModelShape, config: RunConfig) -> bool:
    return shape.quantised or config.quantization != "none"


def _continuous_cpu_cache(
    shape: ModelShape, config: RunConfig, per_token: int, ranks: int, free: int | None, page: int
) -> int:
    rows = max(CONTINUOUS_ROWS, config.batch_size or 0)
    context = min(shape.context or 0, CONTINUOUS_CONTEXT_TOKENS) + config.new_tokens
    of_one = -(-(config.new_tokens + CONTINUOUS_PROMPT_TOKENS) // page) * page
    wanted = per_token * max(rows * of_one, context)
    return wanted if free is None else int(min(wanted, free * CONTINUOUS_SHARE / ranks))
