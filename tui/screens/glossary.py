"""The dashboard's words, what they mean, and which views use them."""

from typing import NamedTuple

from rankdeck.tui.panels.frame import ViewName


class Word(NamedTuple):
    """A word, its meaning, and the views that use it; without any, all views do."""

    word: str
    meaning: str
    views: tuple[str, ...] = ()


_LOADED = ("overview", "timeline", "sweep")
"""The views that show how loaded the devices are."""


WORDS = (
    Word("tok/s", "output tokens per second; padding is never counted"),
    Word(
        "now",
        "tok/s over the last five seconds; those of the ranks add up to the figure at the top",
        ("overview",),
    ),
    Word("mean", "tok/s since the first batch; peak: the most over any five seconds", ("overview",)),
    Word("speedup", "tokens/s over those of one active rank at the same batch size", ("overview",)),
    Word("speedup", "tokens/s over those of one active rank, at one batch size or, ◆, at the best of each", ("sweep",)),
    Word("efficiency", "speedup / active ranks", ("overview", "sweep")),
    Word("per rank", "tok/s / active ranks", ("overview",)),
    Word(
        "results by setting",
        "whole batches that began and ended at one batch size and number of ranks, and how many; busy, DRAM, CPU: "
        "means over the seconds when all those ranks had such a batch",
        ("overview",),
    ),
    Word(
        "rows", "prompts per batch of a setting, on average, where there were fewer than its batch size", ("overview",)
    ),
    Word("±", "half of the 95% interval of a setting's tok/s, from one batch to the next", ("overview",)),
    Word("★", "the setting with the most tok/s", ("overview",)),
    Word("≈", "a setting that cannot be told apart from that one: the difference is within their noise", ("overview",)),
    Word("▸", "the current setting; in the line of advice, what to do next", ("overview",)),
    Word(
        "~",
        "worked out, not measured: predicted, from the batches so far; guess, beyond what was measured; in the "
        "current setting, from its first steps",
        ("overview",),
    ),
    Word(
        "bound by",
        "what most of the last twelve samples, one a second, agree on; the figures beside it are means",
        ("overview",),
    ),
    Word(
        "kernel launches",
        "or fixed cost per step: what a decode step costs however few rows it has; larger batches share it",
        ("overview",),
    ),
    Word("busy", "share of the time in which some kernel ran on the GPU; not how full it was", _LOADED),
    Word("DRAM", "share of the time in which the GPU's memory was read or written (GPM, Hopper and later)", _LOADED),
    Word("tensor", "share of the time in which tensor cores, which multiply matrices, worked (GPM, as DRAM)", _LOADED),
    Word(
        "MBU",
        "use of the memory bandwidth: bytes a decode step must read (weights, keys, values) / its time / peak "
        "bandwidth; a mean over the GPUs; a rank with n GPUs uses one at a time, so that each gets to 1/n at most; on "
        "a CPU, over what a rank's threads can copy",
        ("overview", "sweep"),
    ),
    Word(
        "matrix rate",
        "FLOP/s of the batches (2 x parameters x tokens / seconds), over those of a large matrix product timed at the "
        "start",
        _LOADED,
    ),
    Word("CPU", "what the ranks got of the cores that their threads could use", ("overview",)),
    Word("tok/J", "output tokens per joule: tok/s / watts of the GPUs in use", ("overview",)),
    Word("batch size", "prompts per batch and rank"),
    Word("pull, split", "pull: a free rank takes the next batch; split: each rank gets its share at the start"),
    Word(
        "static, continuous, vllm",
        "the engine: static runs a batch to its end; the others give a row to the next prompt as it falls free",
    ),
    Word(
        "natural length",
        "an answer ends by itself; fixed length: each has as many tokens as there may be, for measuring",
    ),
    Word(
        "a → b tok/s",
        "before and after a knob was turned, over whole batches at one setting, without a rank's first ones",
        ("overview",),
    ),
    Word(
        "memory, GiB",
        "of a setting: the most a rank had in use on its device during a batch; of a rank without a GPU: its process's",
        ("overview",),
    ),
    Word("mem", "memory in use on a GPU, by all programs", ("overview",)),
    Word("SM", "clock of the GPU's processors in MHz, now and at most", ("overview",)),
    Word("reserved", "the most a rank held of its device, in use or not: others cannot have it", ("overview", "sweep")),
    Word("▂▅█", "beside a GPU or a rank: how busy it was in the last minute, from 0 to 100%", ("overview",)),
    Word(
        "▾ power",
        "the GPU's clocks are lowered, and by what: power, heat, the board; ▾3: those of GPU 3",
        ("overview",),
    ),
    Word("!", "a slow rank: in its batches it makes less than three quarters of the others' tok/s", ("overview",)),
    Word("in flight", "prompts in batches that ranks have in hand", ("overview",)),
    Word("ETA", "time to the end of the run, predicted from what its batches cost so far", ("overview",)),
    Word("inactive", "the rank keeps its model loaded and gets no batch", ("overview",)),
    Word("≤8", "the rank ran out of memory: it gets at most 8 prompts per batch", ("overview",)),
    Word("cache", "how full a rank's key and value cache is, where rows come and go", ("overview",)),
    Word(
        "prefix hits",
        "or hits: share of prompt tokens already in vLLM's cache because another prompt starts the same way",
        ("overview",),
    ),
    Word(
        "padding waste",
        "or waste: token slots that held no real token / all that were computed; 0% is perfect",
        ("overview", "timeline"),
    ),
    Word(
        "idle",
        "share of a rank's last minute with no batch in hand, pauses left out; after the end, and in the Timeline, of "
        "all its time since all ranks were ready",
        ("overview", "timeline"),
    ),
    Word(
        "MIG",
        "a slice of a GPU: its busy %, power and tokens/J are n/a, since only the whole GPU has them",
        ("overview", "sweep"),
    ),
    Word(
        "CPU r1, CPU used",
        "what rank 1, or all on average, got of the cores that its threads could use",
        ("timeline",),
    ),
    Word("batch", "#7 x16 is the run's seventh batch, with 16 prompts", ("overview", "timeline")),
    Word("step", "new tokens per prompt of the batch so far, of the most there may be", ("overview",)),
    Word("prefill", "the forward pass over the prompts; it yields the first new token", ("timeline",)),
    Word("decode step", "each later pass; it yields one more token per prompt", ("timeline",)),
    Word("round", "one batch per active rank", ("timeline",)),
    Word("stop, length", "why an answer ended: by itself, or at the most new tokens there may be", ("outputs",)),
    Word("-00:08", "a line was said so long before the first batch; without the sign, after it", ("log",)),
    Word(
        "source",
        "who wrote a line: supervisor, launcher, a rank with all of its libraries; knobs: turns of them",
        ("log",),
    ),
    Word("±", "half of the 95% interval of a setting's repeats", ("sweep",)),
    Word("★ ▸ ▾", "the best setting (highest mean), the one at hand, where growth ends", ("sweep",)),
    Word("tied", "not to be told apart from the best: the 95% interval of the difference has 0 in it", ("sweep",)),
    Word(
        "chosen",
        "what is run: the best, or the smallest batch size tied with it on as many ranks and within 5%",
        ("sweep",),
    ),
    Word("◆ best of each", "the best with each number of ranks, over the best with the fewest", ("sweep",)),
    Word("about", "a prediction beyond what was measured", ("overview",)),
)


def words_of(view: ViewName | None) -> list[tuple[str, str]]:
    """The words of a view, its own first; all words if `view` is None."""
    used = [word for word in WORDS if view is None or not word.views or view in word.views]
    return [(word.word, word.meaning) for word in sorted(used, key=lambda word: not word.views)]
