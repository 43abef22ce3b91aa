"""The ranks of `rankdeck hello`: every rank greets, gather_object collects, rank 0 prints.

The quickest check that a machine can run ranks at all: no model, no supervisor's socket.
"""

import json
import os
import sys

from rankdeck.runner.protocol import StartRank
from rankdeck.runner.protocol.framing import GREETINGS
from rankdeck.runner.rank import forking, group


def main() -> None:
    """Fork ranks that greet, as ordered, until whoever asked for them is gone."""
    forking.serve(forking.take_channel(), greet, named=("", ""))


def greet(order: StartRank) -> None:
    """Greet, gather, print on rank 0."""
    from accelerate.utils import gather_object

    accelerator = group.join(order.rank, order.world_size, order.store)
    greeting = f"rank {order.rank} of {order.world_size} on {accelerator.device} (process {os.getpid()}) says hello"
    greetings = gather_object([greeting])
    if order.rank == 0:
        # One write, and a line of its own even if another rank has written half a line: they share this output.
        sys.stdout.write(f"\n{GREETINGS}{json.dumps(greetings)}\n")
        sys.stdout.flush()
    accelerator.end_training()


if __name__ == "__main__":
    main()
