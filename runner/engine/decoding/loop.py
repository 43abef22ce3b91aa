"""The decode loop: prompts are prefilled into an arena, then every step is on the device, and the host watches.

On a CPU, and where steps cannot be captured, a step has the rows and reads the slots that it needs, and a row leaves as
it ends. On a GPU steps have a few sizes, each captured as a CUDA graph; the host looks a step behind, and rows leave
when those that are left fit a smaller size. Either way the tokens are those of `generate`, which stays for models that
cannot be run so. Knows the workspace, the choice of tokens and the clock; knows no records, ranks or settings.
"""

import contextlib
import time
from collections.abc import Callable

import torch

from rankdeck.runner.engine.decoding.clock import BatchClock, Figures
from rankdeck.runner.engine.decoding.graphs import CaptureError
from rankdeck.runner.engine.decoding.looks import LooksBehind
from rankdeck.runner.engine.decoding.part import Part
from rankdeck.runner.engine.decoding.token_choice import TokenChoice
from rankdeck.runner.engine.decoding.workspace import Workspace
from rankdeck.runner.engine.generation.answers import answers_of
from rankdeck.runner.engine.rows import PROGRESS_SECONDS, Answer
from rankdeck.runner.inputs.step_sizes import row_bucket, slot_bucket

OnAnswers = Callable[[dict[int, Answer]], None]


def run(
    workspace: Workspace, part: Part, choice: TokenChoice, clock: BatchClock, dtype: torch.dtype, on_answers: OnAnswers
) -> Figures:
    """Generate until every row has ended; `on_answers` gets the answers by position, as they come.

    `dtype` is the model's, for what is said of unusable logits.

    Raises:
        Cancelled: the batch is not to go on.
        CaptureError: its steps cannot be captured, though `choice` could be.
    """
    with torch.inference_mode(), contextlib.ExitStack() as products:
        return _Run(workspace, part, choice, clock, dtype, on_answers, products).figures()


class _Run:
    """One part on its way. `rows` has the position of each row, by its place; None where it has left or never was."""

    def __init__(
        self,
        workspace: Workspace,
        part: Part,
        choice: TokenChoice,
        clock: BatchClock,
        dtype: torch.dtype,
        on_answers: OnAnswers,
        products: contextlib.ExitStack,
    ) -> None:
        self._workspace, self._part, self._choice, self._clock = workspace, part, choice, clock
        self._dtype, self._on_answers, self._products = dtype, on_answers, products
        self._captured = choice.captured
        self._rows: list[int | None] = list(part.rows)
        self._row_steps = self._read = 0
        self._handed_over_at = 0.0

    def figures(self) -> Figures:
        """Run, and say what it took."""
        workspace, part, clock = self._workspace, self._part, self._clock
        clock.synchronise()
        began = clock.clock()
        self._state = workspace.prepare(part, self._choice.keys(part.rows), captured=self._captured)
        self._looks = LooksBehind(self._state.status) if self._captured else None
        self._choice.begin(part.rows)
        prefix_slots = workspace.begin_prefixes(part, clock.go_on)
        self._choice(workspace.prefill(part, clock.go_on), self._state, part.width)
        clock.steps, self._row_steps = 1, len(self._rows)
        clock.first_token()
        self._resize(self._size(len(self._rows)))
        slots, shared = part.prompt_slots + prefix_slots, part.shared_tokens - prefix_slots
        try:
            while self._goes_on():
                clock.go_on()
                self._step()
        except CaptureError as error:
            error.figures = Figures.of(clock, began, slots, self._row_steps, self._read, shared)
            raise
        clock.synchronise()
        return Figures.of(clock, began, slots, self._row_steps, self._read, shared)

    def _size(self, rows: int) -> int:
        """How many rows a step has for so many that are going."""
        return row_bucket(rows) if self._captured and rows else rows

    def _resize(self, size: int) -> None:
        self._rows = [*self._rows[:size], *[None] * (size - len(self._rows))]
        self._products.close()
        self._products.enter_context(self._workspace.forward.decoding(size))

    def _step(self) -> None:
        at, rows = self._part.width + self._clock.steps - 1, len(self._rows)
        if self._captured:
            slots = slot_bucket(at + 1)
            self._workspace.graphs.run((rows, slots), lambda: self._do(rows, at, slots), self._choice.reads)
        else:
            self._do(rows, at)
        self._clock.steps += 1
        self._row_steps += rows
        # What a step has to read: not the rows and slots that are there for the size of a graph.
        self._read += (at + 1) * sum(position is not None for position in self._rows)

    def _do(self, rows: int, at: int, slots: int | None = None) -> None:
        """Write the last tokens' keys and values to slot `at`, and choose the next ones."""
        self._choice(self._workspace.pass_on(rows, at, slots), self._state, at + 1)

    def _goes_on(self) -> bool:
        """Look at the rows, and let go of those that have ended; whether any are left."""
        over = self._clock.steps >= self._part.new_tokens
        status = self._status(last=over)
        if self._clock.steps > 1:
            self._clock.stepped()
        if status is None:
            return True
        going = [place for place, at in enumerate(self._rows) if at is not None]
        self._clock.report(lambda: sum(status[place] // 2 for place in going))
        ended = [place for place in going if over or status[place] % 2]
        left = len(going) - len(ended)
        smaller = self._size(left) < len(self._rows)
        if ended and (smaller or time.perf_counter() - self._handed_over_at >= PROGRESS_SECONDS):
            self._hand_over(ended)
        if smaller and left:
            self._close_up()
        return left > 0

    def _status(self, *, last: bool) -> list[int] | None:
        """Each row's tokens, doubled, plus one where it has ended; on a GPU as it was a step ago, but for the last."""
        if self._looks is not None and not last:
            return self._looks.look()
        found: list[int] = self._state.status[: len(self._rows)].tolist()
        return found

    def _hand_over(self, places: list[int]) -> None:
        """Give out the answers of the rows in these places, which have none any more."""
        self._handed_over_at = time.perf_counter()
        index = torch.tensor(places, device=self._state.answers.device)
        tokens = self._state.answers.index_select(0, index)[:, : self._clock.steps].tolist()
        marks = self._state.marks.values.index_select(0, index).tolist()
        found: dict[int, Answer] = {}
        for place, answer in zip(places, answers_of(tokens, marks, self._choice.eos_tokens, self._dtype), strict=True):
            at, self._rows[place] = self._rows[place], None
            assert at is not None
            found[at] = answer
        self._on_answers(found)

    def _close_up(self) -> None:
        """Put the last rows into the places of those that have left, and go on with as many as there are."""
        going = [place for place, at in enumerate(self._rows) if at is not None]
        size = self._size(len(going))
        free = (place for place in range(size) if self._rows[place] is None)
        moves = {place: next(free) for place in going if place >= size}
        if moves:
            slots = self._part.width + self._clock.steps
            self._workspace.move(list(moves), list(moves.values()), slots)
            for source, target in moves.items():
                self._rows[target] = self._rows[source]
        if self._looks is not None:
            self._looks.forget()
        self._resize(size)
        self._choice.begin([at for at in self._rows if at is not None])
