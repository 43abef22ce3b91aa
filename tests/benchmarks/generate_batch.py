"""rankdeck against transformers' own continuous batching, `model.generate_batch`, with nothing around it.

    python -m tests.benchmarks.generate_batch [--case a|b] [--length natural|fixed] [--repeats 3] [--rows 50]
        [--sides one,ranks,static,continuous]

Sides: `one` is generate_batch in one process with all cores, `ranks` in as many processes as rankdeck has ranks, each
with its share of prompts and cores (generate_batch_alone.py); `static` and `continuous` are rankdeck's engines,
everything else by default. Loading and warm-up are part of no side; generate_batch's own setting up of its cache is.
The last line is one JSON object; `ratio` is tokens/s over the first side's, the median of the repeats.
"""

import argparse
import dataclasses

from tests.benchmarks import sides


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
        sides.compare("generate_batch", job, known, options, parser)


if __name__ == "__main__":
    main()
