"""Other labels for some keys: in a run opened from the start screen, during a sweep, in a replay. Pure."""

from collections.abc import Mapping
from types import MappingProxyType

Labels = Mapping[str, tuple[str, str]]
"""Label and tooltip of bindings by id, used instead of the declared ones."""


AS_DECLARED: Labels = MappingProxyType({})


OF_A_RUN: Labels = MappingProxyType(
    {
        "app.leave": ("Back", "Back to the start screen; asks first while the run goes on"),
        "run.detach": ("Let run", "Back to the start screen; the run goes on"),
        "leave.detach": ("Back", "Back to the start screen; the run goes on"),
    }
)
"""In a run that was opened from the start screen."""


OF_A_SWEEP: Labels = MappingProxyType({"run.sweep": ("End sweep", "End the sweep; what it has measured stays")})
"""While a sweep runs its trials."""


OF_A_REPLAY: Labels = MappingProxyType(
    {
        "app.leave": ("Back", "Back to the start screen"),
        "app.interrupt": ("Back", "Back to the start screen"),
    }
)
