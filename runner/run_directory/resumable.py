"""What speaks against going on with a run as it is, or as it is asked for: another model, mixed trials, nothing to do.

Knows what is in a run's directory. Starts nothing.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankdeck.runner.inputs import frozen_prompts
from rankdeck.runner.inputs.checkpoint import fingerprint
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.runner.run_directory.files import EVENTS_FILE, OUTPUTS_FILE, PROMPTS_FILE
from rankdeck.runner.run_directory.private_files import lines_of, open_regular
from rankdeck.runner.run_directory.resumption import missing_records
from rankdeck.runner.run_directory.run_file import RunFile

NOT_MEASURED = ("max_restarts", "patience", "batch_size", "trust_remote_code")
"""Settings that a sweep's trials do not depend on."""


def mixed_trials(before: RunConfig, changes: Mapping[str, Any]) -> list[Problem]:
    """The settings that would make a sweep's trials still to come incomparable with those it has."""
    changed = [name for name in changes if name not in NOT_MEASURED and changes[name] != getattr(before, name)]
    return [
        Problem(name, f"the trials so far ran with {_said(getattr(before, name))}; leave it out, or start a new sweep")
        for name in changed
    ]


def _said(value: object) -> str:
    return "the default" if value is None else str(value)


def trials(directory: Path) -> tuple[int, bool]:
    """How many trials the journal has, and whether the sweep was over after them."""
    trials, settled = 0, False
    with contextlib.suppress(OSError), open_regular(directory / EVENTS_FILE) as journal:
        for line in lines_of(journal):
            trials += line.startswith(b'{"type":"trial_finished"')
            settled = settled or line.startswith(b'{"type":"sweep_settled"')
    return trials, settled


def has_records(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        return (directory / OUTPUTS_FILE).stat().st_size > 0
    return False


def why_another_model(run: RunFile, *, used: bool) -> str | None:
    """Why this would not be the model that the run began with, and has `used`; None if it seems to be."""
    model = run.config.model
    if model == "demo":
        return None
    if not Path(model).is_absolute() and not run.model_files and Path(model).exists():
        said = f"{model} was a hub model when the run began, but here it is a folder"
        return f"{said}; resume the run from another folder"
    return fingerprint.why_changed(Path(model), run.model_files) if used else None


def lacks_records(directory: Path, run: RunFile) -> bool:
    """Whether a run that was complete has lost records since: somebody has touched its outputs."""
    if run.config.sweep is not None and not run.config.sweep.outputs:
        return False
    prompts = frozen_prompts.PromptIndex.open(directory / PROMPTS_FILE)
    return missing_records(directory, prompts) > 0
