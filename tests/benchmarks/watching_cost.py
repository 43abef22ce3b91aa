"""What watching costs: the same run with the dashboard attached, with --plain, and with nobody watching, as ratios.

    python -m tests.benchmarks.watching_cost [--case a|b] [--length natural|fixed] [--repeats 5] [--batch-size 25]

tokens/s are those of run.json. A fixed batch size has every run do the same batches, so that nothing but the watching
differs. The last line is one JSON object; `ratio` is tokens/s over those of the same round with nobody watching, the
median of the repeats, `spread` the least and the most of them.
"""

import argparse

from tests.benchmarks import sides
from tests.benchmarks.sides import View

VIEWS: tuple[View, ...] = ("nobody", "plain", "dashboard")
TOLERANCE = 0.001
"""Which rank takes a last batch may change its rows' neighbours, no more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides.add_job_arguments(parser)
    parser.set_defaults(repeats=5)
    parser.add_argument("--batch-size", type=int, default=25)
    options = parser.parse_args()
    with sides.scratch() as folder:
        job = sides.job_of(options, folder)

        def side(view: View) -> sides.Figures:
            return sides.rankdeck(job, {"batch_size": options.batch_size}, folder, view)

        done = sides.rounds(
            {view: (lambda view=view: side(view)) for view in VIEWS},
            options.repeats,
            lambda figures: sides.check_same_work(figures, job, TOLERANCE),
            options.wait,
        )
    figures = sides.compared(done, "nobody")
    spread = {name: [min(ratios), max(ratios)] for name, ratios in figures["ratios"].items()}
    sides.finish("watching_cost", **figures, spread=spread, **vars(options))


if __name__ == "__main__":
    main()
