"""Where the settings in the form come from, and what becomes of them when the form has gone meanwhile."""

import asyncio
from types import SimpleNamespace

import pytest

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.start.form_fill import FormFill


@pytest.mark.parametrize("attached", [True, False])
async def test_settings_that_come_when_the_form_has_gone_are_dropped(attached):
    form = SimpleNamespace(is_attached=attached)
    launcher = SimpleNamespace(first_settings=lambda: RunConfig(prompts="p.txt"))
    proposed = []
    fill = FormFill(form, launcher, propose=proposed.append)
    if attached:
        await fill.first(None)
    else:
        with pytest.raises(asyncio.CancelledError):
            await fill.first(None)
    assert bool(proposed) is attached
