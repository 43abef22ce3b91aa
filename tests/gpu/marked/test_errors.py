"""What a real GPU's errors do to the process that makes them; each in a process of its own."""

import subprocess
import sys

from tests import ROOT
from tests.gpu.marked.flights import ON_A_GPU

pytestmark = ON_A_GPU

LOSE = """
import torch
from rankdeck.runner.engine import errors, memory
gpu = torch.device("cuda", 0)
rows = torch.zeros(4, device=gpu)
try:
    rows[torch.tensor([10**6], device=gpu)]
    torch.cuda.synchronize(gpu)
except Exception as error:
    memory.free_memory(gpu)
    print(memory.is_lost(error, [gpu]), errors.is_out_of_memory(error))
"""

RUN_OUT = """
import torch
from rankdeck.runner.engine import errors, memory
gpu = torch.device("cuda", 0)
torch.cuda.set_per_process_memory_fraction(0.05, gpu)  # other tests' runs need the rest
torch.zeros(1, device=gpu)
torch.cuda.synchronize(gpu)
before = torch.cuda.memory_allocated(gpu), torch.cuda.memory_reserved(gpu)
def fill():
    pieces = []
    while True:
        pieces.append(torch.empty(2**28, dtype=torch.uint8, device=gpu))
try:
    fill()
except Exception as error:
    known, lost = errors.is_out_of_memory(error), memory.is_lost(error, [gpu])
    errors.forget_frames(error)
    memory.free_memory(gpu)
    after = torch.cuda.memory_allocated(gpu), torch.cuda.memory_reserved(gpu)
    print(known, lost, after[0] <= before[0], after[1] <= before[1] + 2**26)
"""


def printed(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_after_an_index_out_of_bounds_the_gpu_is_lost_to_the_process():
    assert printed(LOSE) == ["True", "False"]


def test_after_an_out_of_memory_it_is_not_and_all_that_was_taken_is_free_again():
    assert printed(RUN_OUT) == ["True", "False", "True", "True"]
