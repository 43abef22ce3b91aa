"""rankdeck against transformers' own continuous batching, `model.generate_batch`, with nothing around it.

    python -m tests.benchmarks.generate_batch [--case a|b] [--length natural|fixed] [--repeats 3] [--rows 50]
        [--sides one,ranks,static,continuous]

Sides: `one` is generate_batch in one process with all cores, `ranks` in as many processes as rankdeck has ranks, each
with its share of prompts and cores (generate_batch_alone.py); `static` and `continuous` are rankdeck's engines,
everything else by default. An engine that this rankdeck does not have is left out. Loading and warm-up are part of no
side; generate_batch's own setting up of its cache is. The last line is one JSON object; `ratio` is tokens/s over the
first side's, the median of the repeats.
"""

import argparse
import dataclasses

from tests.benchmarks import sides

TOLERANCE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides.add_job_arguments(parser)
    parser.add_argument("--rows", type=int, default=50, help="requests under way at most, of one process alone")
    parser.add_argument("--sides", default="one,ranks,static,continuous")
    options = parser.parse_args()
    with sides.scratch() as folder:
        job = sides.job_of(options, folder)
        alone = dataclasses.replace(job, ranks=1)
        rows = ("--rows", str(options.rows))
        known = {
            "one": lambda: sides.script(alone, "generate_batch_alone.py", folder, *rows),
            "ranks": lambda: sides.script(job, "generate_batch_alone.py", folder, *rows),
            "static": lambda: sides.rankdeck(job, {"engine": "static"}, folder),
            "continuous": lambda: sides.rankdeck(job, {"engine": "continuous"}, folder),
        }
        asked = options.sides.split(",")
        if unknown := [name for name in asked if name not in known]:
            parser.error(f"--sides: {unknown[0]!r} is none of {', '.join(known)}")
        if "continuous" in asked and "continuous" not in sides.engines():
            sides.say("left out: this rankdeck has no --engine continuous")
            asked.remove("continuous")
        done = sides.rounds(
            {name: known[name] for name in asked},
            options.repeats,
            lambda figures: sides.check_same_work(figures, job, TOLERANCE),
        )
    settings = {name: value for name, value in vars(options).items() if name != "sides"}
    sides.finish("generate_batch", **sides.compared(done, asked[0]), base=asked[0], **settings)


if __name__ == "__main__":
    main()
