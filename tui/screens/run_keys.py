"""The keys of a run's screen: steering the run, changing views, leaving."""

from textual.binding import Binding, BindingType

from rankdeck.tui.screens.views import VIEWS
from rankdeck.tui.widgets.deck import HELP_KEYS

_BATCH_SIZE, _RANKS, _VIEWS = Binding.Group("Batch size"), Binding.Group("Ranks"), Binding.Group("Views")


def _knob(keys: str, action: str, description: str, group: Binding.Group, tooltip: str) -> Binding:
    name = f"knob.{description.lower().replace(' ', '_')}"
    return Binding(keys, action, description, id=name, tooltip=tooltip, group=group)


RUN_KEYS: list[BindingType] = [
    Binding("q", "app.leave", "Quit", id="app.leave", tooltip="Leave; asks first while the run goes on"),
    *HELP_KEYS,  # the help of a run's screen knows the view
    Binding("space", "pause", "Pause", id="run.pause", tooltip="Pause after the batches in flight, or go on"),
    Binding("x", "app.stop", "Stop", id="run.stop", tooltip="Stop the run after the batches in flight"),
    _knob("minus,underscore", "batch_size(False)", "Smaller batches", _BATCH_SIZE, "Halve the batch size"),
    _knob("plus,equals_sign", "batch_size(True)", "Larger batches", _BATCH_SIZE, "Double the batch size"),
    _knob("left_square_bracket", "ranks(-1)", "Fewer ranks", _RANKS, "One active rank less; it keeps its model"),
    _knob("right_square_bracket", "ranks(1)", "More ranks", _RANKS, "One active rank more"),
    *(
        Binding(
            view.key,
            f"view('{view.name}')",
            view.title,
            id=f"view.{view.name}",
            tooltip=view.tooltip,
            group=_VIEWS,
        )
        for view in VIEWS
    ),
    Binding("d", "app.detach", "Detach", id="run.detach", tooltip="Leave; the run goes on"),
    Binding(
        "b", "type_batch_size", "Batch size", id="knob.batch_size", tooltip="Type a batch size, or auto", show=False
    ),
    Binding(
        "a",
        "auto_batch_size",
        "Auto batch size",
        id="knob.auto",
        tooltip="Search for the best batch size on the real work",
        show=False,
    ),
    Binding(
        "i", "advice", "Advice", id="run.advice", tooltip="All that the figures suggest, while you steer", show=False
    ),
    Binding(
        "s",
        "sweep",
        "Sweep",
        id="run.sweep",
        tooltip="Measure batch sizes and ranks, or end that",
        show=False,
    ),
    Binding(
        "T",
        "tour",
        "Tour",
        id="run.tour",
        tooltip="Walk up to the best setting; any knob ends it",
        show=False,
    ),
    Binding(
        "X",
        "stop_now",
        "Stop now",
        id="run.stop_now",
        tooltip="Abandon the batches in flight; asks first",
        show=False,
    ),
]

_STEERS = ("knob.", "run.pause", "run.tour")
"""Prefixes of the ids of keys that change how the run goes on; the others leave it, end it or show something else."""

STEERING_KEYS: list[BindingType] = [
    key for start in _STEERS for key in RUN_KEYS if isinstance(key, Binding) and (key.id or "").startswith(start)
]
"""The keys that a dialog about the run passes on, in the order of its line of keys."""
