"""What some keys are called elsewhere than usual: in a run opened from the start screen, a sweep, a replay. Pure."""

from collections.abc import Mapping
from types import MappingProxyType

Labels = Mapping[str, tuple[str, str]]
"""Label and tooltip of bindings, by id, in the place of those they are declared with."""


AS_DECLARED: Labels = MappingProxyType({})


OF_A_RUN: Labels = MappingProxyType(
    {
        "app.leave": ("Back", "Back to the start screen; asks first while the run goes on"),
        "run.detach": ("Let run", "Back to the start screen; the run goes on"),
        "leave.detach": ("Back", "Back to the start screen; the run goes on"),
    }
)
"""Of a run that was opened from the start screen."""


OF_A_SWEEP: Labels = MappingProxyType({"run.sweep": ("End sweep", "End the sweep; what it has measured stays")})
"""While trials are run."""


OF_A_REPLAY: Labels = MappingProxyType(
    {
        "app.leave": ("Back", "Back to the start screen"),
        "app.interrupt": ("Back", "Back to the start screen"),
    }
)
