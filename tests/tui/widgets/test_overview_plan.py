"""When the Overview plans its layout again: if something that the plan is made from has changed, and only then."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.state import RunState
from rankdeck.tui.panels.frame import Frame
from rankdeck.tui.panels.overview.plan import outline, plan_overview
from rankdeck.tui.widgets import overview
from rankdeck.tui.widgets.overview import Overview
from tests import scripted
from tests.dashboards import STATES, dashboard, settled
from tests.scripted import Script

SCRIPTS: dict[str, Callable[[], Script]] = {
    **STATES,
    "loading_gpus": lambda: scripted.loading(8, gpus=8),
    "lost_gpu": lambda: scripted.lost_gpu(8),
    "sixty_four": lambda: scripted.running(64, gpus=8, prompts=8000),
    "failed_gpus": lambda: scripted.failed(2, gpus=2),
}
LAST_STATES: dict[str, RunState] = {name: script().state for name, script in SCRIPTS.items()}


@given(
    name=st.sampled_from(sorted(LAST_STATES)),
    width=st.integers(56, 200),
    height=st.integers(10, 70),
    spare=st.booleans(),
    taken=st.integers(0, 6),
)
def test_the_outline_of_a_state_has_the_plan_of_the_state(
    name: str, width: int, height: int, spare: bool, taken: int
) -> None:
    state = LAST_STATES[name]
    of_the_state = plan_overview(state, width, height, 2, spare, taken)
    assert plan_overview(outline(state), width, height, 2, spare, taken) == of_the_state


def test_new_figures_do_not_change_the_outline() -> None:
    script = scripted.running(2, gpus=2)
    before = script.state
    after = script.wait(1).tick(step=40, batches=[5, 6]).state
    assert before.ranks != after.ranks
    assert before.devices != after.devices
    assert outline(before) == outline(after)


async def test_the_overview_plans_again_if_its_tables_change_and_not_at_a_tick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned: list[Any] = []

    def counted(*inputs: Any) -> Any:
        planned.append(inputs)
        return plan_overview(*inputs)

    monkeypatch.setattr(overview, "plan_overview", counted)
    script = scripted.running(2, gpus=2)
    app = dashboard(script)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        view = app.screen.query_one(Overview)
        planned.clear()
        view.show(Frame(script.wait(1).tick(step=40, batches=[5, 6]).state, app.followed.book, None, steers=True))
        assert planned == []
        view.show(Frame(scripted.running(8, gpus=8).state, app.followed.book, None, steers=True))
        assert len(planned) == 1
