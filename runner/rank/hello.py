"""One rank of `rankdeck hello`: every rank greets, gather_object collects, the main process prints.

The quickest check that a machine can run ranks at all: no model, no supervisor.
"""

import json
import os
import sys

from rankdeck.runner.machine.processes import end_with_parent
from rankdeck.runner.protocol.framing import GREETINGS
from rankdeck.runner.rank import group


def main() -> None:
    """Greet, gather, print on the main process."""
    end_with_parent()
    from accelerate.utils import gather_object

    accelerator = group.join(int(os.environ.get("WORLD_SIZE", "1")))
    greeting = (
        f"rank {accelerator.process_index} of {accelerator.num_processes} on {accelerator.device} "
        f"(process {os.getpid()}) says hello"
    )
    greetings = gather_object([greeting])
    if accelerator.is_main_process:
        sys.stdout.write(GREETINGS + json.dumps(greetings) + "\n")
        sys.stdout.flush()
    accelerator.end_training()


if __name__ == "__main__":
    main()
