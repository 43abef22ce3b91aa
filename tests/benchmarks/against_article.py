"""rankdeck against the plain accelerate script in the 2023 article's way: same work, alternating, as ratios.

    python -m tests.benchmarks.against_article [--case a|b] [--length natural|fixed] [--repeats 3] [--watched]
        [--sides article,same,defaults]

Three sides, each with the same model, prompts, ranks, precision and length. `article` is article.py: shares by
split_between_processes, the file's order, left-padded static batches of 16, gather at the end. `same` is rankdeck with
these settings. `defaults` is rankdeck with none of them given: what it does by itself. Case a is the article's: 100
short prompts x 100 new tokens. Case b is a mixed file asked as chat (mixed.py), up to 200 new tokens.

All leave out loading and warm-up. The script's seconds end with its gather, rankdeck's with the last result written
down. The plain view stands for rankdeck unless `--watched`, which is the dashboard on a terminal. The last line is
one JSON object; `ratio` is tokens/s over the article's, the median of the repeats.
"""

import argparse

from tests.benchmarks import sides
from tests.benchmarks.sides import View

SAME = {"order": "input", "dispatch": "split", "engine": "static"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides.add_job_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=16, help="of article and same")
    parser.add_argument("--sides", default="article,same,defaults")
    watching = parser.add_mutually_exclusive_group()
    watching.add_argument("--watched", action="store_true", help="rankdeck with its dashboard on a terminal")
    watching.add_argument("--unwatched", dest="watched", action="store_false", help="with --plain, as by default")
    options = parser.parse_args()
    view: View = "dashboard" if options.watched else "plain"
    with sides.scratch() as folder:
        job = sides.job_of(options, folder)
        size = options.batch_size
        known = {
            "article": lambda: sides.script(job, "article.py", folder, "--batch-size", str(size)),
            "same": lambda: sides.rankdeck(job, {**SAME, "batch_size": size}, folder, view),
            "defaults": lambda: sides.rankdeck(job, {}, folder, view),
        }
        sides.compare("against_article", job, known, options, parser)


if __name__ == "__main__":
    main()
