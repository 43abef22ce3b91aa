"""Where people see the memory that torch has reserved, beside what is in use."""

import msgspec
import pytest

from rankdeck.tui.panels.overview.knob_effect import turn_lines
from rankdeck.tui.words.text import plain
from tests import scripted_steering

GIB = 2**30


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (110, "batch size 4 → 8  115 → 174 tok/s (+51%)  memory 2.0 → 4.6 GiB  reserved 12.0 → 63.9 GiB"),
        (70, "batch 4 → 8  115 → 174 tok/s (+51%)  memory 2.0 → 4.6 GiB"),
    ],
)
def test_a_turn_of_a_knob_shows_the_reserve_beside_the_memory_in_use_where_there_is_room(width, shown):
    state = scripted_steering.knob_turned().state
    sizes = [(2.0, 12.0), (4.6, 63.9)]
    periods = tuple(
        msgspec.structs.replace(
            one,
            peak_memory_bytes=int(peak * GIB),
            reserved_memory_bytes=int(reserve * GIB),
            shares={rank: msgspec.structs.replace(share, cold=False) for rank, share in one.shares.items()},
        )
        for one, (peak, reserve) in zip(state.periods, sizes, strict=True)
    )
    assert plain(turn_lines(msgspec.structs.replace(state, periods=periods), width)) == shown
